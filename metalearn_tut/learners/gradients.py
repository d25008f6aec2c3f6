"""Losses that carry gradients which were computed already, task by task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metalearn_tut.bilevel import DeferredGradients, Params, TaskGradients
from metalearn_tut.machine.threads import each


class _Attach(torch.autograd.Function):
    """Losses whose gradients were computed already: backward is a weighted sum of them."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[:count])
        return losses.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        summed = (torch.tensordot(weights.to(g), g, dims=1) for g in gradients)
        return None, None, *(None for _ in gradients), *summed


class _AttachDeferred(torch.autograd.Function):
    """Losses whose gradients are computed in backward, those of weight 0 never."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: Any, *metas: Tensor) -> Tensor:
        ctx.gradients = gradients
        ctx.save_for_backward(*metas)
        return losses.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("deferred losses can be differentiated once: their graphs are freed")
        sums = [torch.zeros_like(p) for p in ctx.saved_tensors]
        needed = [pair for pair in zip(weights, ctx.gradients, strict=True) if pair[0]]
        found = each(lambda pair: (pair[0], pair[1]()), needed)
        for weight, gradients in found:
            for total, g in zip(sums, gradients, strict=True):
                total += weight.to(g) * g
        ctx.gradients = None  # the graphs of tasks left out
        return None, None, *sums


def attach_gradients(result: TaskGradients | DeferredGradients, metas: Params) -> Tensor:
    """Per-task losses ``[T]`` that carry the per-task meta-gradients of ``result``.

    Any function of the losses (their mean, a sum over ranks) can then be differentiated,
    though each task's own graph is long freed: memory does not grow with T. Deferred
    gradients are computed in the backward pass (of which there can be one), for the tasks
    whose loss has a weight there; memory grows with T.

    Examples
    --------
    >>> w = torch.tensor(2.0, requires_grad=True)
    >>> result = TaskGradients(torch.tensor([4.0, 9.0]), torch.empty(0),
    ...                        {"w": torch.tensor([1.0, 10.0])})
    >>> attach_gradients(result, {"w": w}).max().backward()
    >>> w.grad
    tensor(10.)
    """
    if isinstance(result, DeferredGradients):
        return _AttachDeferred.apply(result.losses, result.gradients, *metas.values())
    gradients = [result.gradients[name] for name in metas]
    return _Attach.apply(result.losses, len(gradients), *gradients, *metas.values())
