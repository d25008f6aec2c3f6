"""Soft filter pruning, to stack on a network that has lost blocks already."""

from __future__ import annotations

import copy
import math
import os
from functools import partial

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.epochs import train_epochs
from metalearn_tut.block_voting.images import Data
from metalearn_tut.block_voting.recipe import Recipe
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.mode import any_frozen


def zero_filters(network: CifarResNet, kept: float, *, norms: bool = False) -> None:
    """Set the filters of smallest l2 norm to zero, in every convolution, in place.

    Of the C filters of a convolution, ``floor((1 - kept) · C)`` become zero, but never the last
    one; none if any of the
    numbers that would go with a filter is frozen: its own, its norm's, or those that read it.

    Parameters
    ----------
    network : CifarResNet
    kept : float
        Share of the filters that stay, in (0, 1].
    norms : bool, default False
        Also the scale and shift of the batch norm behind them. Without this, a filter of zeros
        still puts out a constant, but can come back in training.

    Raises
    ------
    ValueError
        If ``kept`` is out of range.
    """
    _check_kept(kept)
    with torch.no_grad():
        for conv, norm, reader in _convolutions(network):
            if _keeps_all(conv, norm, reader):
                continue
            filters = conv.weight.flatten(1).norm(dim=1)
            n = min(math.floor((1 - kept) * len(filters) + 1e-9), len(filters) - 1)
            weakest = filters.argsort(stable=True)[:n]
            conv.weight[weakest] = 0
            if norms:
                norm.weight[weakest] = norm.bias[weakest] = 0


def remove_filters(network: CifarResNet) -> CifarResNet:
    """A narrower copy without the filters that are zero together with their norm.

    It computes the same function, to rounding, and what is frozen stays as it is. The sum with
    the shortcut needs all channels, so what is left of a block's second convolution (and of the
    stem) is put back in its place among zeros. A convolution then costs the share of filters it
    has kept; the second one of a block this share times that of the first, whose outputs it reads.

    Parameters
    ----------
    network : CifarResNet
        With all of its filters, shortened or not; left as it is.

    Raises
    ------
    ValueError
        If filters have been removed before.
    """
    if any(isinstance(m, Widen) for m in network.modules()):
        raise ValueError("filters of this network have been removed already")
    narrow = copy.deepcopy(network)
    conv, norm, relu = narrow.stem
    stays = _alive(conv, norm, None)
    narrow.stem = nn.Sequential(_rows(conv, stays), _channels(norm, stays), relu)
    if not stays.all():
        narrow.stem.append(Widen(stays))
    for block in narrow.blocks:
        inner = _alive(block.conv1, block.bn1, block.conv2)
        outer = _alive(block.conv2, block.bn2, None)
        block.conv1, block.bn1 = _rows(block.conv1, inner), _channels(block.bn1, inner)
        block.conv2, block.bn2 = _rows(block.conv2, outer, inner), _channels(block.bn2, outer)
        if not outer.all():
            block.bn2 = nn.Sequential(block.bn2, Widen(outer))
    return narrow


def soft_filter_prune(
    network: CifarResNet,
    data: Data,
    kept: float,
    recipe: Recipe,
    *,
    file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> CifarResNet:
    """Train a copy whose weakest filters are set to zero after every epoch, then remove them.

    Parameters
    ----------
    network : CifarResNet
        Trained; for example what is left after blocks were pruned.
    data : LabelledImages or (images, labels)
    kept : float
        Share of the filters that stay, in (0, 1].
    recipe : Recipe
    file, seed, progress
        See :func:`train_epochs`.

    Notes
    -----
    As in He et al. zeroed filters go on learning. At the end we also zero the scale and shift of
    their norms: only so can they be taken out without changing the function. Accuracy may be
    regained by some more training of the result.

    References
    ----------
    He et al., *Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks*, 2018.

    Examples
    --------
    >>> data = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    >>> narrow = soft_filter_prune(CifarResNet(20, 2), data, 0.5, Recipe(1), progress=False)
    >>> narrow.blocks[0].conv2
    Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    _check_kept(kept)
    trained = copy.deepcopy(network)
    train_epochs(
        trained,
        data,
        recipe,
        after_epoch=partial(zero_filters, kept=kept),
        seed=seed,
        title="filters",
        file=file,
        note={"kept": kept},
        progress=progress,
    )
    zero_filters(trained, kept, norms=True)
    return remove_filters(trained)


class Widen(nn.Module):
    """Put channels back in their places among channels of zeros.

    Parameters
    ----------
    stays : Tensor [C]
        Which of the C channels there are, as booleans.

    Examples
    --------
    >>> Widen(torch.tensor([True, False, True]))(torch.ones(1, 2, 1, 1)).flatten().tolist()
    [1.0, 0.0, 1.0]
    """

    def __init__(self, stays: Tensor) -> None:
        super().__init__()
        self.channels = len(stays)
        self.register_buffer("places", stays.nonzero().flatten())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C', H, W]`` to ``[B, C, H, W]``."""
        zeros = x.new_zeros(len(x), self.channels, *x.shape[2:])
        return zeros.index_copy(1, self.places, x)


def _check_kept(kept: float) -> None:
    if not 0 < kept <= 1:
        raise ValueError(f"kept must be in (0, 1], got {kept}")


Layer = tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d | None]


def _convolutions(network: CifarResNet) -> list[Layer]:
    """Every convolution, the norm behind it, and the convolution that reads no other filters."""
    layers: list[Layer] = [(network.stem[0], network.stem[1], None)]
    for block in network.blocks:
        layers.append((block.conv1, block.bn1, block.conv2))
        layers.append((block.conv2, block.bn2, None))
    return layers


def _keeps_all(conv: nn.Conv2d, norm: nn.BatchNorm2d, reader: nn.Conv2d | None) -> bool:
    """Whether frozen numbers would go with a filter."""
    return any_frozen(conv, norm, *([] if reader is None else [reader]))


def _alive(conv: nn.Conv2d, norm: nn.BatchNorm2d, reader: nn.Conv2d | None) -> Tensor:
    """Which filters ``[C]`` are not zero, or have a norm that is not, or are not to go."""
    alive = conv.weight.flatten(1).any(1) | (norm.weight != 0) | (norm.bias != 0)
    return alive | _keeps_all(conv, norm, reader)


def _rows(conv: nn.Conv2d, stays: Tensor, reads: Tensor | None = None) -> nn.Conv2d:
    """The convolution with these filters only, reading these channels only."""
    weight = conv.weight[stays] if reads is None else conv.weight[stays][:, reads]
    shape = {"stride": conv.stride, "padding": conv.padding, "bias": False}
    made = nn.Conv2d(weight.shape[1], len(weight), conv.kernel_size, **shape)
    made.weight = nn.Parameter(weight.detach().clone(), conv.weight.requires_grad)
    return made.train(conv.training)


def _channels(norm: nn.BatchNorm2d, stays: Tensor) -> nn.BatchNorm2d:
    """The norm of these channels only."""
    made = nn.BatchNorm2d(int(stays.sum()), norm.eps, norm.momentum).to(norm.weight)
    state = {n: t[stays] if t.ndim else t for n, t in norm.state_dict().items()}
    made.load_state_dict(state)
    for new, old in zip(made.parameters(), norm.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    return made.train(norm.training)
