"""All tasks of a batch at once: every task has its own weights, stacked along dimension 0.

``torch.func.vmap`` would do the same, but its second-order gradient through affine batch,
layer and instance norm is wrong; here the batching is written out and exact. Images travel
folded, ``[B, T·C, H, W]``, so that one grouped convolution serves T tasks and one batch
normalization over T·C channels gives each task its own statistics. Features travel as
``[T, B, F]``. The batched form of each layer is in ``batched.py``.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from metalearn_tut.bilevel.forward import Forward, parameters_of
from metalearn_tut.bilevel.inner import Params
from metalearn_tut.bilevel.vectorised.batched import fold, layer_rule, unfold
from metalearn_tut.models.filters.tracing import ONE_AT_A_TIME, Tracer
from metalearn_tut.models.inputs import check_images, prefer_channels_last

# They act on each number, or on each image's pixels, so a folded batch needs nothing special.
_POINTWISE = {
    *(operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul),
    *(torch.relu, torch.tanh, torch.sigmoid),
    *(F.relu, F.leaky_relu, F.elu, F.gelu, F.silu, F.softplus),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
}
_POINTWISE_METHODS = {"relu", "tanh", "sigmoid", "contiguous"}


def vectorised(model: nn.Module, tasks: int, graph: fx.Graph | None = None) -> Forward:
    """``forward(params, x)`` for T tasks at once.

    Parameters
    ----------
    model : nn.Module
        Built from convolutions, linear layers, the norms of this package or of torch,
        poolings, flatten and elementwise functions; traceable by ``torch.fx``.
    tasks : int
        Number of tasks T. Parameters carry it as dimension 0, and so do inputs, images
        ``x [T, B, C, H, W]`` or features ``[T, B, F]``, and outputs ``[T, B, N]``.
    graph : fx.Graph, optional
        What ``trace`` made of the model just now.

    Raises
    ------
    ValueError
        If the model holds an operation that has no batched form here; the message names it.
    """
    graph, modules = graph or trace(model), dict(model.named_modules())

    def forward(params: Params, x: Tensor, n_support: int | None = None) -> Tensor:
        if x.ndim not in (3, 5):
            raise ValueError(
                "engine='vectorised' needs features [B, F] or images [B, C, H, W] per task, got "
                f"shape {list(x.shape[1:])}; use engine='functional'"
            )
        out = _run(graph, modules, params, fold(x.clone()), n_support, tasks)
        return out.unflatten(1, (tasks, -1)).transpose(0, 1) if out.ndim == 4 else out

    return forward


_TRIES = 8  # another thread may have drawn the random numbers


def trace(model: nn.Module) -> fx.Graph:
    """The model's operations in order, checked to be ones that have a batched form.

    It is made anew for every batch: what ``forward`` reads (a list, a function, a global name)
    may have changed, and no key of a kept graph could cover it.
    """
    for name, module in model.named_modules():
        if "forward" in vars(module):  # which the tracer does not look at
            raise ValueError(
                f"engine='vectorised' cannot follow {name or type(model).__name__}, whose forward "
                "was replaced in this one object; use engine='functional'"
            )
    graph = next(filter(None, (_traced(model) for _ in range(_TRIES))), None)
    if graph is None:
        raise ValueError(
            f"engine='vectorised' cannot follow {type(model).__name__}.forward, which draws random "
            "numbers: a graph would repeat the same ones; use engine='functional'"
        )
    modules, names = dict(model.named_modules()), set(parameters_of(model))
    for node in graph.nodes:
        what = _unsupported(node, modules, names)
        if what:
            raise ValueError(
                f"engine='vectorised' has no batched form of {what} in "
                f"{type(model).__name__}; use engine='functional'"
            )
    return graph


def _traced(model: nn.Module) -> fx.Graph | None:
    """The graph, or None if random numbers were drawn meanwhile."""
    with ONE_AT_A_TIME:
        before = _random_states()
        try:
            graph = Tracer().trace(model)
        except Exception as error:  # of whatever kind: forward() meets something that is no tensor
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"engine='vectorised' cannot follow {type(model).__name__}.forward ({reason}); "
                "use engine='functional'"
            ) from error
        return graph if _random_states() == before else None


def _random_states() -> list[Any]:
    """Where the generators stand that a ``forward`` may draw from."""
    _, key, *place = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), key.tobytes(), place, torch.get_rng_state().numpy().tobytes()]


def _unsupported(node: fx.Node, modules: dict[str, nn.Module], names: set[str]) -> str | None:
    """What is in the way, in words, or None."""
    if node.op == "call_module":
        module = modules[node.target]
        where = f"{node.target} ({type(module).__name__})"
        if shared := {f"{node.target}.{n}" for n, _ in module.named_parameters()} - names:
            return f"the shared parameter {min(shared)}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"the hooks of {where}"
        return None if layer_rule(module) else where
    supported = node.op in ("placeholder", "output") or _function_rule(node) is not None
    return None if supported else str(getattr(node.target, "__name__", node.target))


def _function_rule(node: fx.Node) -> Callable[..., Any] | None:
    """``(tasks, *args, **kwargs) -> value``: the batched form of a function or method call."""
    target, rest = node.target, (*node.args[1:], *node.kwargs.values())
    if target in ("flatten", torch.flatten):
        given = {**dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)), **node.kwargs}
        if given in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1}):
            return lambda tasks, x, *args, **kwargs: unfold(x, tasks)
        return None
    if target in ("mean", torch.mean) and rest in (((2, 3),), ([2, 3],), ((-2, -1),), ([-2, -1],)):
        return lambda tasks, x, *args, **kwargs: unfold(x.mean((2, 3), keepdim=True), tasks)
    if target is check_images:
        return lambda tasks, x, *args, **kwargs: check_images(_first(x, tasks), *args, **kwargs)
    if target is prefer_channels_last:  # a layout that does not suit grouped convolutions
        return lambda tasks, x: x
    if node.op == "call_method" and target in _POINTWISE_METHODS and len(node.args) == 1:
        return lambda tasks, x, **kwargs: getattr(x, target)(**kwargs)
    if node.op == "call_function" and target in _POINTWISE:
        return lambda tasks, *args, **kwargs: target(*args, **kwargs)
    return None


def _first(x: Tensor, tasks: int) -> Tensor:
    """The first task's images ``[B, C, H, W]``; other tensors as they are."""
    return x.unflatten(1, (tasks, -1))[:, 0] if x.ndim == 4 else x


def _run(
    graph: fx.Graph,
    modules: dict[str, nn.Module],
    params: Params,
    x: Tensor,
    n_support: int | None,
    tasks: int,
) -> Tensor:
    """Interpret the graph with the batched form of each operation."""
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            default = node.args[0] if node.args else None
            values[node] = (n_support if node.target == "n_support" else default) if values else x
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "output":
            return args[0]
        if node.op == "call_module":
            module = modules[node.target]
            own = partial(_own, params, node.target)
            values[node] = layer_rule(module)(module, own, tasks, *args, **kwargs)
        else:
            values[node] = _function_rule(node)(tasks, *args, **kwargs)
    raise AssertionError("a traced graph ends in an output node")


def _own(params: Params, layer: str, name: str) -> Tensor | None:
    return params.get(f"{layer}.{name}")
