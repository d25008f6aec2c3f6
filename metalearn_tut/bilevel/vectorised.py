"""All tasks of a batch at once: every task has its own weights, stacked along dimension 0.

``torch.func.vmap`` would do the same, but its second-order gradient through affine batch,
layer and instance norm is wrong; here the batching is written out and exact. Images travel
folded, ``[B, T·C, H, W]``, so that one grouped convolution serves T tasks and one batch
normalisation over T·C channels gives each task its own statistics.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from metalearn_tut.bilevel.forward import Forward
from metalearn_tut.bilevel.inner import Params
from metalearn_tut.models.inputs import check_images, prefer_channels_last
from metalearn_tut.models.norms import TaskBatchNorm2d, task_batch_norm

_ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Identity,
)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_FUNCTIONS = {torch.relu, F.relu, F.leaky_relu, torch.tanh, operator.add, torch.add}
_POOL_FUNCTIONS = {F.max_pool2d, F.avg_pool2d}
# A check of the unfolded input, and a layout that does not suit grouped convolutions.
_SKIPPED = {check_images, prefer_channels_last}


def vectorised(model: nn.Module, tasks: int) -> Forward:
    """``forward(params, x)`` for T tasks at once.

    Parameters
    ----------
    model : nn.Module
        Built from convolutions, linear layers, the norms of this package or of torch,
        poolings, flatten and elementwise functions; traceable by ``torch.fx``.
    tasks : int
        Number of tasks T. Parameters carry it as dimension 0, and so do inputs
        ``x [T, B, ...]`` and outputs ``[T, B, N]``.

    Raises
    ------
    ValueError
        If the model holds an operation that has no batched form here; the message names it.
    """
    graph, modules = _graph_of(model), dict(model.named_modules())

    def forward(params: Params, x: Tensor, n_support: int | None = None) -> Tensor:
        folded = x.transpose(0, 1).flatten(1, 2) if x.ndim == 5 else x
        out = _run(graph, modules, params, folded, n_support, tasks)
        return _unfold(out, tasks) if out.ndim == 4 else out

    return forward


_GRAPHS: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], fx.Graph]] = WeakKeyDictionary()


def _graph_of(model: nn.Module) -> fx.Graph:
    """The traced graph, kept while the model lives and its submodules stay the same ones."""
    signature = tuple(map(id, model.modules()))
    known = _GRAPHS.get(model)
    if known is None or known[0] != signature:
        known = _GRAPHS[model] = signature, trace(model)
    return known[1]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, TaskBatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph:
    """The model's operations in order, checked to be ones that have a batched form."""
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"engine='vectorised' cannot follow {type(model).__name__}.forward ({error}); "
            "use engine='functional'"
        ) from error
    modules = dict(model.named_modules())
    for node in graph.nodes:
        if not _supported(node, modules):
            what = node.target
            if node.op == "call_module":
                what = f"{node.target} ({type(modules[node.target]).__name__})"
            raise ValueError(
                f"engine='vectorised' has no batched form of {what} in "
                f"{type(model).__name__}; use engine='functional'"
            )
    return graph


def _supported(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return _module_rule(modules[node.target]) is not None
    if node.op == "call_function":
        return node.target in _FUNCTIONS | _POOL_FUNCTIONS | _SKIPPED | {torch.flatten}
    if node.op == "call_method":
        return node.target in {"relu", "tanh", "flatten", "contiguous"}
    return node.op in {"placeholder", "output"}


def _run(
    graph: fx.Graph,
    modules: dict[str, nn.Module],
    params: Params,
    x: Tensor,
    n_support: int | None,
    tasks: int,
) -> Tensor:
    """Interpret the graph with the batched form of each operation."""
    values: dict[fx.Node, object] = {}
    read = values.__getitem__
    for node in graph.nodes:
        if node.op == "output":
            return values[node.args[0]]
        if node.op == "placeholder":
            values[node] = n_support if values else x
            continue
        args = fx.map_arg(node.args, read)
        if node.op == "call_module":
            own = partial(_own, params, node.target)
            values[node] = _module_rule(modules[node.target])(
                modules[node.target], own, tasks, *args
            )
        elif node.target in {"flatten", torch.flatten}:
            values[node] = _unfold(args[0], tasks)
        elif node.target in _SKIPPED | {"contiguous"}:
            values[node] = args[0]
        elif node.op == "call_method":
            values[node] = getattr(args[0], node.target)()
        else:
            values[node] = node.target(*args, **node.kwargs)
    raise AssertionError("a traced graph ends in an output node")


def _own(params: Params, prefix: str, name: str) -> Tensor | None:
    return params.get(f"{prefix}.{name}" if prefix else name)


def _flat(p: Tensor | None) -> Tensor | None:
    """Per-task vectors [T, C] as one vector [T·C]."""
    return None if p is None else p.flatten(0, 1)


def _unfold(x: Tensor, tasks: int) -> Tensor:
    """[B, T·C, H, W] -> [T, B, C·H·W]; features [T, B, F] stay."""
    if x.ndim == 3:
        return x
    return x.unflatten(1, (tasks, -1)).flatten(2).transpose(0, 1)


Own = Callable[[str], Tensor | None]


def _linear(m: nn.Linear, own: Own, tasks: int, x: Tensor) -> Tensor:
    weight, bias = own("weight"), own("bias")  # [T, O, I], [T, O]
    if bias is None:
        return x @ weight.transpose(1, 2)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))  # [T, B, O]


def _conv2d(m: nn.Conv2d, own: Own, tasks: int, x: Tensor) -> Tensor:
    weight = own("weight").flatten(0, 1)  # [T·O, I, k, k]
    return F.conv2d(
        x, weight, _flat(own("bias")), m.stride, m.padding, m.dilation, m.groups * tasks
    )


def _task_batch_norm(
    m: TaskBatchNorm2d, own: Own, tasks: int, x: Tensor, n_support: int | None = None
) -> Tensor:
    return task_batch_norm(x, _flat(own("weight")), _flat(own("bias")), n_support, m.eps)


def _batch_norm(m: nn.Module, own: Own, tasks: int, x: Tensor) -> Tensor:
    use_batch = m.training or m.running_mean is None
    running = (None, None)
    if not use_batch:
        running = (m.running_mean.repeat(tasks), m.running_var.repeat(tasks))
    if features := x.ndim == 3:
        x = x.transpose(0, 1).flatten(1)  # [B, T·F]
    x = F.batch_norm(x, *running, _flat(own("weight")), _flat(own("bias")), use_batch, 0.0, m.eps)
    return x.unflatten(1, (tasks, -1)).transpose(0, 1) if features else x


def _group_norm(m: nn.GroupNorm, own: Own, tasks: int, x: Tensor) -> Tensor:
    if x.ndim == 3:
        x = x.transpose(0, 1).flatten(1)
        x = F.group_norm(x, m.num_groups * tasks, _flat(own("weight")), _flat(own("bias")), m.eps)
        return x.unflatten(1, (tasks, -1)).transpose(0, 1)
    return F.group_norm(x, m.num_groups * tasks, _flat(own("weight")), _flat(own("bias")), m.eps)


def _layer_norm(m: nn.LayerNorm, own: Own, tasks: int, x: Tensor) -> Tensor:
    x = F.layer_norm(x, m.normalized_shape, eps=m.eps)  # [T, B, F]
    weight, bias = own("weight"), own("bias")
    x = x if weight is None else x * weight.unsqueeze(1)
    return x if bias is None else x + bias.unsqueeze(1)


def _module_rule(m: nn.Module) -> Callable[..., Tensor] | None:
    """The batched form of one layer, or None where there is none."""
    exact = {
        nn.Linear: _linear,
        nn.Conv2d: _conv2d,
        TaskBatchNorm2d: _task_batch_norm,
        nn.BatchNorm1d: _batch_norm,
        nn.BatchNorm2d: _batch_norm,
        nn.GroupNorm: _group_norm,
        nn.LayerNorm: _layer_norm,
        nn.Flatten: lambda m, own, tasks, x: _unfold(x, tasks),
    }
    if isinstance(m, nn.Conv2d) and m.padding_mode != "zeros":
        return None
    if isinstance(m, nn.LayerNorm) and len(m.normalized_shape) != 1:
        return None
    if isinstance(m, _ELEMENTWISE + _POOLS):
        return lambda m, own, tasks, x: m(x)
    return exact.get(type(m))
