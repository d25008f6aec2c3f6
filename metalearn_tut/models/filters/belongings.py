"""What belongs to each filter of a network: whose channel it is, from layer to layer.

The network's graph is followed with, for every tensor, the list of the filters that its channels
come from. What is known to keep channels apart, and a channel of zeros at zero, passes the list
on; a layer that reads it is noted; whatever else needs all channels as they are. (Torch-Pruning,
which does more, takes what it does not know for such an operation: a network that reverses its
channels, or passes them through a sigmoid, came back with other outputs.)
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from metalearn_tut.models.filters.tracing import (
    as_rows,
    asked,
    asks_all,
    asks_kind,
    flattens,
    over_pixels,
    trace,
)
from metalearn_tut.models.inputs import prefer_channels_last
from metalearn_tut.models.mode import any_frozen
from metalearn_tut.models.norms import TaskBatchNorm2d

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, TaskBatchNorm2d)
_SILENT_LAYERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Hardswish, nn.Softsign, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
)
_SILENT = {
    *(torch.relu, torch.tanh, F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu),
    *(F.mish, F.tanh, F.hardswish, F.softsign, F.dropout, F.dropout2d, torch.max_pool2d),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_max_pool2d, F.adaptive_avg_pool2d),
    *(prefer_channels_last, "relu", "relu_", "tanh", "contiguous", "clone", "float", "double"),
}


@dataclass(frozen=True)
class Place:
    """Where a layer has numbers for a convolution's filters.

    Parameters
    ----------
    layer : str
        Its name.
    first : int
        The row of its weight, or the column if it reads the filters, of the first filter.
    each : int, default 1
        Columns for each filter: of a linear layer one for each pixel of a channel.
    """

    layer: str
    first: int
    each: int = 1


@dataclass
class Filters:
    """The filters of one convolution, and what goes with them.

    Parameters
    ----------
    count : int
        How many there are.
    beside : list of Place
        Norms and depthwise convolutions, which have numbers for each.
    readers : list of Place
        Convolutions and linear layers with columns for each.
    group : int, default 1
        How many can only go together, as a group norm has one statistic for them.
    fixed : str
        Why their channels have to stay, in words; "" if they can go.
    behind : str or None
        The layer behind which a channel that has to stay can be replaced by zeros, if any.
    """

    count: int
    beside: list[Place] = field(default_factory=list)
    readers: list[Place] = field(default_factory=list)
    group: int = 1
    fixed: str = ""
    behind: str | None = None

    def frozen(self, network: nn.Module, name: str) -> bool:
        """Whether frozen numbers would go with a filter: the layer's ``name`` or another's."""
        layers = [network.get_submodule(n) for n in (name, *(p.layer for p in self.beside))]
        readers = [] if self.fixed else self.readers
        return any_frozen(*layers, *(network.get_submodule(p.layer).weight for p in readers))


def filters_of(network: nn.Module) -> dict[str, Filters]:
    """What goes with the filters of every convolution of a network, by the layer's name.

    Parameters
    ----------
    network : nn.Module
        Any that ``torch.fx`` can follow, in the mode that it is in; it is left as it is.

    Raises
    ------
    ValueError
        If it cannot be followed.

    Examples
    --------
    >>> network = nn.Sequential(
    ...     nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)
    ... )
    >>> found = filters_of(network)["0"]
    >>> found.count, found.beside, found.readers, found.fixed
    (4, [Place(layer='1', first=0, each=1)], [Place(layer='4', first=0, each=9)], '')
    """
    graph = trace(network)
    follower = _Follower(network, graph)
    for node in graph.nodes:
        follower.follow(node)
    return follower.found


@dataclass(frozen=True)
class _Channels:
    """The channels of a tensor: parts of the filters of a layer, or of something else (None).

    A number of channels that is not known is None; ``flat`` are features ``[B, C·P]``, the P
    pixels of one channel after those of another.
    """

    parts: tuple[tuple[str | None, int | None], ...] = ((None, None),)
    flat: bool = False


class _Follower:
    """Follows the graph node by node; ``found`` is what :func:`filters_of` returns."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        self.layers = dict(network.named_modules())
        self.found: dict[str, Filters] = {}
        self.channels: dict[fx.Node, _Channels] = {}
        used = [n.target for n in graph.nodes if n.op in ("call_module", "get_attr")]
        self.uses = Counter(id(p) for name in used for p in self._parameters(network, name))

    def _parameters(self, network: nn.Module, name: str) -> list[Any]:
        if name in self.layers:
            return list(self.layers[name].parameters())
        owner, _, leaf = name.rpartition(".")
        return [getattr(network.get_submodule(owner), leaf)]

    def follow(self, node: fx.Node) -> None:
        """Find out what a node does with channels."""
        if node.op in ("placeholder", "get_attr"):
            self.channels[node] = _Channels()
        elif node.op == "call_module":
            x = self._first(node)
            layer = self.layers[node.target]
            self.channels[node] = self._layer(node, layer, x) if x else self._all_needed(node)
        elif asks_all(node):
            self.channels[node] = self._first(node) or _Channels()
        elif not self._harmless(node):
            passed = None if node.op == "output" else self._passed_on(node)
            self.channels[node] = passed or self._all_needed(node)

    def _harmless(self, node: fx.Node) -> bool:
        """Whether a node asks for a size that does not depend on channels, or nobody reads it."""
        dim, x = asked(node), self._first(node)
        if dim is None or x is None:
            return asks_kind(node)
        pixels = (2, 3, -1, -2, slice(2, None), slice(-2, None))
        return not node.users or dim == 0 or (dim in pixels and not x.flat)

    def _layer(self, node: fx.Node, layer: nn.Module, x: _Channels) -> _Channels:
        """The channels that a layer puts out."""
        kind, name = type(layer), node.target
        plain = not any(self.uses[id(p)] > 1 for p in layer.parameters())
        plain &= not (layer._forward_hooks or layer._forward_pre_hooks)
        plain &= "forward" not in vars(layer)
        if kind in _SILENT_LAYERS and plain:
            return x
        if kind is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1) and plain:
            return replace(x, flat=True)
        if kind is nn.Conv2d:
            depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
            if depthwise and plain and not x.flat:
                return self._note_beside(node, layer, layer.in_channels, x)
            if layer.groups == 1 and plain:
                self._note_reader(node, layer.in_channels, x)
                return self._note_filters(node, layer)
            why = "it has groups" if layer.groups > 1 else "it has hooks, or is used twice"
            self.found[name] = Filters(layer.out_channels, fixed=why)
            self._all_needed(node)
            return _Channels(((None, layer.out_channels),))
        if kind is nn.Linear and plain and x.flat:
            self._note_reader(node, layer.in_features, x)
            return _Channels(((None, layer.out_features),), flat=True)
        if kind in NORMS and plain and layer.weight is not None and not x.flat:
            return self._note_beside(node, layer, len(layer.weight), x)
        return self._all_needed(node)

    def _note_filters(self, node: fx.Node, layer: nn.Conv2d) -> _Channels:
        self.found[node.target] = Filters(layer.out_channels, behind=node.target)
        return _Channels(((node.target, layer.out_channels),))

    def _note_reader(self, node: fx.Node, columns: int, x: _Channels) -> None:
        """A layer with so many columns reads ``x``."""
        starts = _starts(x, columns)
        if starts is None:
            self._all_needed(node)
            return
        for (layer, _), first in zip(x.parts, starts, strict=False):
            if layer is not None:
                each = columns // starts[-1]
                self.found[layer].readers.append(Place(node.target, first * each, each))

    def _note_beside(self, node: fx.Node, layer: nn.Module, rows: int, x: _Channels) -> _Channels:
        """A layer has numbers for each channel of ``x``, and leaves the channels as they are."""
        starts = _starts(x, rows)
        size = layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1
        if starts is None or any(start % size for start in starts):
            return self._all_needed(node)
        before = node.args[0]
        norm = type(layer) in NORMS and not isinstance(layer, TaskBatchNorm2d)
        for (name, _), first in zip(x.parts, starts, strict=False):
            if name is not None:
                found, direct = self.found[name], before.target == name and len(before.users) == 1
                found.beside.append(Place(node.target, first))
                found.group = math.lcm(found.group, size)
                found.behind = node.target if norm and direct else None
        return x

    def _passed_on(self, node: fx.Node) -> _Channels | None:
        """The channels that a function passes on, or None if it does not."""
        if node.target in (torch.cat, torch.concat):
            return self._together(node)
        x = self._first(node)
        if x is not None and as_rows(node):
            return replace(x, flat=True)
        if x is None or len(node.all_input_nodes) > 1:
            return None
        if node.target in _SILENT:
            return x
        if flattens(node):
            return replace(x, flat=True)
        if over_pixels(node) and not x.flat:
            return replace(x, flat=not node.kwargs.get("keepdim", False))
        return None

    def _first(self, node: fx.Node) -> _Channels | None:
        """The channels of the first argument, if that is a tensor."""
        first = node.args[0] if node.args else None
        return self.channels.get(first) if isinstance(first, fx.Node) else None

    def _together(self, node: fx.Node) -> _Channels | None:
        given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
        if given.get("dim", 0) not in (1, -3) or isinstance(given["tensors"], fx.Node):
            return None
        xs = [self.channels[x] for x in given["tensors"]]
        if any(x.flat for x in xs):
            return None
        return _Channels(tuple(part for x in xs for part in x.parts))

    def _all_needed(self, node: fx.Node) -> _Channels:
        """Something needs all channels that it is given; what it makes of them is not known."""
        for given in node.all_input_nodes:
            for layer, _ in self.channels.get(given, _Channels()).parts:
                if layer is not None and not self.found[layer].fixed:
                    self.found[layer].fixed = f"{node.name} needs all of its channels"
        return _Channels()


def _starts(x: _Channels, total: int) -> list[int] | None:
    """Where each part begins, and all end, if they make up ``total`` (or a divisor, if flat)."""
    sizes = [size for _, size in x.parts]
    if sizes.count(None) == 1 and not x.flat:
        sizes[sizes.index(None)] = total - sum(size for size in sizes if size is not None)
    if None in sizes:
        return None
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    fits = total % starts[-1] == 0 if x.flat else total == starts[-1]
    return starts if fits else None
