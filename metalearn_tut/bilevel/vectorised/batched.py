"""Layers with one set of weights per task, applied to all tasks in one call.

Images are folded, ``[B, T·C, H, W]``, features are ``[T, B, F]``, and every weight has a
leading dimension T. A rule is ``(module, own, tasks, x) -> result``, with ``own(name)`` the
stacked parameter of that name, or None.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.models.norms import TaskBatchNorm2d, task_batch_norm

Own = Callable[[str], "Tensor | None"]
Rule = Callable[..., Tensor]

_POINTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


def fold(x: Tensor) -> Tensor:
    """Images ``[T, B, C, H, W]`` -> ``[B, T·C, H, W]``; features ``[T, B, F]`` stay."""
    return x.transpose(0, 1).flatten(1, 2) if x.ndim == 5 else x


def unfold(x: Tensor, tasks: int) -> Tensor:
    """Images ``[B, T·C, H, W]`` -> features ``[T, B, C·H·W]``; features stay."""
    return x.unflatten(1, (tasks, -1)).flatten(2).transpose(0, 1) if x.ndim == 4 else x


def layer_rule(module: nn.Module) -> Rule | None:
    """The batched form of one layer, or None where there is none."""
    if isinstance(module, _POINTWISE):
        return _pointwise
    rule = _RULES.get(type(module))
    if rule is _conv2d and module.padding_mode != "zeros":
        return None
    if rule is _layer_norm and len(module.normalized_shape) != 1:
        return None
    if rule is _flatten and (module.start_dim, module.end_dim) != (1, -1):
        return None
    return rule


def _pointwise(module: nn.Module, own: Own, tasks: int, x: Tensor) -> Tensor:
    return module(x)


def _flatten(module: nn.Flatten, own: Own, tasks: int, x: Tensor) -> Tensor:
    return unfold(x, tasks)


def _linear(module: nn.Linear, own: Own, tasks: int, x: Tensor) -> Tensor:
    weight, bias = own("weight"), own("bias")  # [T, O, I], [T, O]
    _check_features(module, x)
    if bias is None:
        return x @ weight.transpose(1, 2)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))  # [T, B, O]


def _conv2d(module: nn.Conv2d, own: Own, tasks: int, x: Tensor) -> Tensor:
    weight = own("weight").flatten(0, 1)  # [T·O, I, k, k]
    steps = module.stride, module.padding, module.dilation
    return F.conv2d(x, weight, _flat(own("bias")), *steps, module.groups * tasks)


def _task_batch_norm(
    module: TaskBatchNorm2d, own: Own, tasks: int, x: Tensor, n_support: int | None = None
) -> Tensor:
    return task_batch_norm(x, _flat(own("weight")), _flat(own("bias")), n_support, module.eps)


def _batch_norm(module: nn.Module, own: Own, tasks: int, x: Tensor) -> Tensor:
    """Running statistics are read in evaluation mode and never written."""
    use_batch = module.training or module.running_mean is None
    running = (None, None)
    if not use_batch:
        running = (module.running_mean.repeat(tasks), module.running_var.repeat(tasks))
    weight, bias = _flat(own("weight")), _flat(own("bias"))
    wide = F.batch_norm(_wide(x), *running, weight, bias, use_batch, 0.0, module.eps)
    return wide if x.ndim == 4 else wide.unflatten(1, (tasks, -1)).transpose(0, 1)


def _group_norm(module: nn.GroupNorm, own: Own, tasks: int, x: Tensor) -> Tensor:
    weight, bias = _flat(own("weight")), _flat(own("bias"))
    wide = F.group_norm(_wide(x), module.num_groups * tasks, weight, bias, module.eps)
    return wide if x.ndim == 4 else wide.unflatten(1, (tasks, -1)).transpose(0, 1)


def _layer_norm(module: nn.LayerNorm, own: Own, tasks: int, x: Tensor) -> Tensor:
    _check_features(module, x)
    x = F.layer_norm(x, module.normalized_shape, eps=module.eps)  # [T, B, F]
    weight, bias = own("weight"), own("bias")
    x = x if weight is None else x * weight.unsqueeze(1)
    return x if bias is None else x + bias.unsqueeze(1)


def _wide(x: Tensor) -> Tensor:
    """Channels of all tasks side by side: features become ``[B, T·F]``, images are so already."""
    return x.transpose(0, 1).flatten(1) if x.ndim == 3 else x


def _flat(p: Tensor | None) -> Tensor | None:
    """Per-task vectors ``[T, C]`` as one vector ``[T·C]``."""
    return None if p is None else p.flatten(0, 1)


def _check_features(module: nn.Module, x: Tensor) -> None:
    if x.ndim != 3:
        raise ValueError(
            f"engine='vectorised' has no batched form of {type(module).__name__} on images; "
            "flatten them first, or use engine='functional'"
        )


_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    TaskBatchNorm2d: _task_batch_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Flatten: _flatten,
}
