"""Soft filter pruning, to stack on a network that has lost blocks already."""

from __future__ import annotations

import copy
import math
import os
from functools import partial

import torch
from torch import Tensor

from metalearn_tut.block_voting.epochs import train_epochs
from metalearn_tut.block_voting.images import Data
from metalearn_tut.block_voting.recipe import Recipe
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.filters import Filters, Widen, filters_of, remove_filters


def zero_filters(network: CifarResNet, kept: float, *, norms: bool = False) -> None:
    """Set the filters of smallest l2 norm to zero, in every convolution, in place.

    Of the C filters of a convolution, ``floor((1 - kept) · C)`` become zero, but never the last
    one; none if any of the numbers that would go with a filter is frozen: its own, its norm's, or
    those that read it.

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
        for layer, own in _free(network).items():
            weight = network.get_submodule(layer).weight
            gone = min(math.floor((1 - kept) * own.count + 1e-9), own.count - 1)
            weakest = weight.flatten(1).norm(dim=1).argsort(stable=True)[:gone]
            weight[weakest] = 0
            for place in own.beside if norms else ():
                for p in network.get_submodule(place.layer).parameters():
                    p[weakest + place.first] = 0


def remove_zero_filters(network: CifarResNet) -> CifarResNet:
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
    kept = {layer: ~_zero(network, layer, own) for layer, own in _free(network).items()}
    return remove_filters(network, kept, widen=True)


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
    return remove_zero_filters(trained)


def _check_kept(kept: float) -> None:
    if not 0 < kept <= 1:
        raise ValueError(f"kept must be in (0, 1], got {kept}")


def _free(network: CifarResNet) -> dict[str, Filters]:
    """The convolutions without a frozen number that would go with a filter."""
    found = filters_of(network).items()
    return {layer: own for layer, own in found if not own.frozen(network, layer)}


def _zero(network: CifarResNet, layer: str, own: Filters) -> Tensor:
    """Which filters ``[C]`` are zero together with their norms; but never all."""
    zero = ~network.get_submodule(layer).weight.flatten(1).any(1)
    for place in own.beside:
        rows = slice(place.first, place.first + own.count)
        for p in network.get_submodule(place.layer).parameters():
            zero &= p[rows] == 0
    zero[0] &= not zero.all()
    return zero
