"""What a learner is: per-task losses to train on, tensors to train, and a way to adapt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel import (
    DeferredGradients,
    Params,
    TaskGradients,
    functional,
    query_outputs,
)
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.models import deploy
from metalearn_tut.tasks.task import TaskBatch, as_float


class TaskLosses(NamedTuple):
    """``losses [T]``, differentiable in the meta-parameters; ``accuracy [T]`` or None."""

    losses: Tensor
    accuracy: Tensor | None


class Learner(Protocol):
    """All that training and evaluation know of a method."""

    def meta_parameters(self) -> Params:
        """The tensors to train, by name."""

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """One loss per task; ``progress`` in 0..1 is the share of training done."""

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Callable[[Tensor], Tensor]:
        """Learn one task from its support set; the result maps inputs to outputs."""


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
        for weight, gradients in zip(weights, ctx.gradients, strict=True):
            if weight:
                for total, g in zip(sums, gradients(), strict=True):
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


def accuracy_of(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Share of right labels along the last dimension but one of ``outputs [..., B, N]``.

    None for regression targets.
    """
    if targets.is_floating_point():
        return None
    return (outputs.argmax(-1) == targets).float().mean(-1)


@dataclass(frozen=True)
class Predictor:
    """A network adapted to one task: call it on inputs, or deploy it.

    Parameters
    ----------
    model : nn.Module
        The architecture.
    params : dict of name to Tensor
        The adapted parameters.
    support_x : Tensor
        The support inputs, whose statistics ``norm="support"`` normalizes by.
    """

    model: nn.Module
    params: Params
    support_x: Tensor

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[B, ways]`` for inputs ``x [B, ...]`` (``uint8`` images or floats).

        With ``norm="batch"`` the rows of ``x`` are normalized together (transductive): one
        image's answer depends on the others.
        """
        like = next(iter(self.params.values()))
        support, query = (as_float(t.to(like.device), like.dtype) for t in (self.support_x, x))
        forward = functional(self.model)
        return query_outputs(forward, self.params, support, query, norm_of(self.model))

    def deploy(self) -> nn.Module:
        """An ordinary network in evaluation mode for this task: see :func:`models.deploy`."""
        like = next(iter(self.params.values()))
        support = as_float(self.support_x.to(like.device), like.dtype)
        return deploy(self.model, self.params, support)
