"""The graph of a network: its layers and operations, in order."""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from metalearn_tut.models.norms import TaskBatchNorm2d

ONE_AT_A_TIME = threading.Lock()  # what a tracer replaces is every thread's


class Tracer(fx.Tracer):
    """While it runs, ``nn.Module.__call__`` is replaced for all threads: others pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """Note a layer, or go into it."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict) -> Any:
        """Note a parameter."""
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a layer is one node of the graph."""
        return isinstance(m, TaskBatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module) -> fx.Graph:
    """The network's operations when optional arguments have their defaults.

    Raises
    ------
    ValueError
        If ``forward`` decides by the values that it is given.
    """
    arguments = inspect.signature(network.forward).parameters.values()
    defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
    with ONE_AT_A_TIME:
        try:
            return Tracer().trace(network, defaults)
        except Exception as error:  # of whatever kind: forward() meets something that is no tensor
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"filters of {type(network).__name__} cannot be removed: torch.fx cannot follow "
                f"its forward ({reason})"
            ) from error


def asks_all(node: fx.Node) -> bool:
    """``x.shape`` or ``x.size()``."""
    if node.target == "size":
        return len(node.args) == 1 and not node.kwargs
    return node.target is getattr and node.args[1] == "shape"


def asked(node: fx.Node) -> Any:
    """The dimension, or the slice of them, whose size a node asks for; None if it asks for none."""
    if node.target == "size":
        return node.args[1] if len(node.args) == 2 else node.kwargs.get("dim")
    of = node.args[0] if node.target is operator.getitem else None
    return node.args[1] if isinstance(of, fx.Node) and asks_all(of) else None


def asks_kind(node: fx.Node) -> bool:
    """``x.dim()``, ``x.ndim``, ``x.dtype`` or ``x.device``."""
    if node.target is getattr:
        return node.args[1] in ("ndim", "dtype", "device")
    return node.target == "dim"


def as_rows(node: fx.Node) -> bool:
    """``x.view(len(x), -1)``, whichever way the number of rows is asked for."""
    if node.target not in ("view", "reshape") or len(node.args) != 3:
        return False
    rows, rest = node.args[1:]
    return isinstance(rows, fx.Node) and asked(rows) == 0 and rest == -1


def flattens(node: fx.Node) -> bool:
    """``x.flatten(1)``."""
    if node.target not in ("flatten", torch.flatten):
        return False
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
    return given in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1})


def over_pixels(node: fx.Node) -> bool:
    """``x.mean((2, 3))`` and the like; ``keepdim`` by name."""
    if node.target not in ("mean", "amax", torch.mean, torch.amax) or len(node.args) > 2:
        return False
    dims = node.args[1] if len(node.args) == 2 else node.kwargs.get("dim")
    return isinstance(dims, (tuple, list)) and sorted(dims) in ([2, 3], [-2, -1])
