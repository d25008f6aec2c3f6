"""A network without some of its filters, really smaller: the one place where filters go."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from metalearn_tut.models.bound import replaced
from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.models.filters.belongings import Filters, filters_of
from metalearn_tut.models.filters.tracing import trace
from metalearn_tut.models.norms import TaskBatchNorm2d
from metalearn_tut.models.resnet12 import ResNet12

Network = TypeVar("Network", bound=nn.Module)
Cuts = dict[str, Tensor]


def remove_filters(network: Network, kept: Mapping[str, Tensor], *, widen: bool = False) -> Network:
    """A narrower network of what is left.

    With each filter go its bias, its channel of the norms (and depthwise convolutions) behind
    it, and what the next layers make of it. The result is the network whose filters, biases and
    norms' channels were set to 0, but without the work.

    Parameters
    ----------
    network : nn.Module
        Any that ``torch.fx`` can follow, of convolutions, norms, activations that are 0 at 0,
        poolings, concatenations and linear layers, as far as filters go. Left as it is; nothing
        is shared with the result.
    kept : mapping of layer name to bool Tensor [C_out]
        As from :func:`~metalearn_tut.saliency.best_filters`. Other layers keep all.
    widen : bool, default False
        Take filters also where all channels are needed, as in a sum with a shortcut: what is
        left is put back in its place among zeros
        (:class:`~metalearn_tut.models.filters.Widen`). The convolution then costs less, and what
        reads it costs the same.

    Returns
    -------
    nn.Module
        Of the same class, dtype, device and modes; what is frozen stays so. ``Conv4`` and
        ``ResNet12`` have other ``width`` or ``inner``, from which they can be built again.

    Raises
    ------
    ValueError
        If ``forward`` cannot be followed; if a layer cannot lose filters, with the reason; if it
        is frozen (or its norm is, or the weights that read it), would lose all, or part of a
        group of its norm.

    Notes
    -----
    A depthwise convolution loses the filters of the channels that go. Other convolutions with
    groups keep theirs, and all that they read. What cannot be told from the graph is refused, and
    the operation named: nothing is removed on a guess.

    Examples
    --------
    >>> model = Conv4(1, ways=5, width=4)
    >>> narrow = remove_filters(model, {"blocks.1.conv": torch.tensor([True, False, True, True])})
    >>> narrow.width, narrow(torch.rand(5, 1, 28, 28)).shape
    ((4, 3, 4, 4), torch.Size([5, 5]))
    """
    found = filters_of(network)
    kept = {layer: torch.as_tensor(keep) for layer, keep in kept.items()}
    for layer, keep in kept.items():
        _check(network, found, layer, keep, widen)
    narrow = copy.deepcopy(network)
    layers = dict(narrow.named_modules())
    rows, columns = _cuts(layers, found, kept)
    for name in rows.keys() | columns.keys():
        _cut(layers[name], rows.get(name), columns.get(name))
    _check_same_graph(network, narrow)
    widened = {}
    for layer, keep in kept.items():
        if found[layer].fixed and not keep.all():
            behind = layers[found[layer].behind]
            widened[behind] = nn.Sequential(behind, Widen(keep).to(layers[layer].weight.device))
    narrow = replaced(narrow, widened) if widened else narrow
    _note_sizes(narrow)
    return narrow


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


def _check(
    network: nn.Module, found: Mapping[str, Filters], layer: str, keep: Tensor, widen: bool
) -> None:
    """Refuse, before any work, what cannot be removed."""
    if layer not in found:
        able = ", ".join(n for n, filters in found.items() if not filters.fixed)
        raise ValueError(f"{layer} cannot lose filters; those that can are {able or 'none'}")
    filters = found[layer]
    if keep.shape != (filters.count,) or keep.dtype != torch.bool:
        raise ValueError(
            f"kept[{layer!r}] must be boolean of shape [{filters.count}], "
            f"got {keep.dtype} of shape {list(keep.shape)}"
        )
    if keep.all():
        return
    if filters.fixed and not (widen and filters.behind is not None):
        raise ValueError(f"{layer} cannot lose filters: {filters.fixed}")
    if filters.frozen(network, layer):
        others = [place.layer for place in (*filters.beside, *filters.readers)]
        raise ValueError(
            f"{layer} keeps all filters: with one would go frozen numbers (requires_grad=False) "
            f"of it, of {' or of '.join(others)}"
        )
    if not keep.any():
        raise ValueError(f"kept[{layer!r}] must keep a filter at least")
    if not torch.equal(keep, keep[:: filters.group].repeat_interleave(filters.group)):
        raise ValueError(
            f"kept[{layer!r}] must keep or drop whole groups of {filters.group} filters: with the "
            "rest of a group its norm would change"
        )


def _check_same_graph(network: nn.Module, narrow: nn.Module) -> None:
    """Refuse a ``forward`` that computes with a layer's size, which no graph shows."""
    if str(trace(narrow)) != str(trace(network)):
        raise ValueError(
            f"filters of {type(network).__name__} cannot be removed: its forward computes with "
            "the size of a layer (such as out_channels), which would be another"
        )


def _cuts(
    layers: Mapping[str, nn.Module], found: Mapping[str, Filters], kept: Mapping[str, Tensor]
) -> tuple[Cuts, Cuts]:
    """Which rows and columns of its weight each layer keeps, as far as any go."""
    rows: Cuts = {}
    columns: Cuts = {}

    def part(cuts: Cuts, name: str, dim: int) -> Tensor:
        weight = layers[name].weight
        return cuts.setdefault(name, torch.ones(weight.shape[dim], dtype=torch.bool))

    for layer, keep in kept.items():
        keep, filters = keep.cpu(), found[layer]
        part(rows, layer, 0).copy_(keep)
        for place in filters.beside:
            part(rows, place.layer, 0)[place.first : place.first + len(keep)] = keep
        for place in [] if filters.fixed else filters.readers:
            end = place.first + place.each * len(keep)
            part(columns, place.layer, 1)[place.first : end] = keep.repeat_interleave(place.each)
    return rows, columns


def _cut(layer: nn.Module, rows: Tensor | None, columns: Tensor | None) -> None:
    """Leave a layer with these rows and columns of its weight, and rows of its other numbers."""
    size = layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1
    for name, old in [*layer.named_parameters(), *layer.named_buffers()]:
        if not old.ndim:  # a counter
            continue
        new = old.detach() if rows is None else old.detach()[rows.to(old.device)]
        if columns is not None and name == "weight":
            new = new[:, columns.to(old.device)]
        fixed = isinstance(old, nn.Parameter)
        setattr(layer, name, nn.Parameter(new, old.requires_grad) if fixed else new)
    count = len(layer.weight)
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.groups = count, 1 if layer.groups == 1 else count
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.in_features = layer.weight.shape[1]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels, layer.num_groups = count, count // size
    elif isinstance(layer, TaskBatchNorm2d):
        layer.channels = count
    else:
        layer.num_features = count


def _note_sizes(network: nn.Module) -> None:
    """Have our networks say what they would be built with."""
    if isinstance(network, Conv4):
        network.width = tuple(block.conv.out_channels for block in network.blocks)
        norms = [block.norm for block in network.blocks if isinstance(block.norm, nn.GroupNorm)]
        sizes = {norm.num_channels // norm.num_groups for norm in norms}
        if len(sizes) > 1:
            raise ValueError(f"norms must have groups of one size, got {sorted(sizes)}")
        network.group_size = sizes.pop() if sizes else None
    elif isinstance(network, ResNet12):
        network.inner = tuple(
            tuple(conv.out_channels for conv in block.convs[:2]) for block in network.blocks
        )
