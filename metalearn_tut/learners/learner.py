"""What a learner is: per-task losses to train on, tensors to train, and a way to adapt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
from metalearn_tut.bilevel.checks import check_tensor
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.models import deploy
from metalearn_tut.models.bound import for_tasks, with_tensors
from metalearn_tut.models.deploy import with_statistics
from metalearn_tut.tasks.task import TaskBatch, as_float, check_one_scale


class TaskLosses(NamedTuple):
    """``losses [T]``, differentiable in the meta-parameters; ``accuracy [T]`` or None.

    Of a learner with a metric of its own, ``accuracy`` is that.
    """

    losses: Tensor
    accuracy: Tensor | None


class Learner(Protocol):
    """All that training and evaluation know of a method."""

    def meta_parameters(self) -> Params:
        """The tensors to train, by name."""

    def settings(self) -> dict[str, Any]:
        """All else that decides its results, as JSON: saved with it, and compared."""

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


def read_by(network: nn.Module, x: Tensor) -> Tensor:
    """Inputs as a network reads them: scaled if they are images, in its dtype, on its device."""
    like = next(network.parameters())
    return as_float(x.to(like.device), like.dtype)


def check_query(support_x: Tensor, x: Tensor) -> None:
    """Refuse inputs that are no batch, or not on the scale of the support set."""
    check_tensor("x", x)
    if x.ndim != support_x.ndim:
        raise ValueError(
            f"x must have {support_x.ndim} dimensions, as the support set of shape "
            f"{list(support_x.shape)}, got shape {list(x.shape)}: for one example, x.unsqueeze(0)"
        )
    check_one_scale(support_x, x)


@dataclass(frozen=True)
class Predictor:
    """A network adapted to one task: call it on inputs, or deploy it.

    It is a function: the same input gets the same answer, whatever becomes of the learner, of
    the tensors that it was made from, or in other threads. Dropout is off. Batch norms of
    PyTorch that have no statistics to read have those of the support set, under the adapted
    parameters.

    Parameters
    ----------
    model : nn.Module
        The architecture. It is copied, as the other two.
    params : dict of name to Tensor
        The adapted parameters.
    support_x : Tensor
        The support inputs, whose statistics ``norm="support"`` normalizes by.

    Attributes
    ----------
    network : nn.Module
        The model in evaluation mode with the adapted parameters.
    """

    model: nn.Module
    params: Params
    support_x: Tensor
    network: nn.Module = field(init=False, repr=False)

    @torch.no_grad()
    def __post_init__(self) -> None:
        params = {n: p.detach().clone() for n, p in self.params.items()}
        model = for_tasks(self.model, training=False)
        own = {"model": model, "params": params, "support_x": self.support_x.detach().clone()}
        for name, value in own.items():
            object.__setattr__(self, name, value)
        network = with_tensors(model, params)
        if norm_of(model) == "none":  # a network of this package says what it normalizes by
            x = read_by(network, self.support_x)
            network = with_statistics(network, lambda net: net(x.clone()))
        object.__setattr__(self, "network", network)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[B, ways]`` for inputs ``x [B, ...]``.

        ``uint8`` images are scaled to 0..1; floats are taken as they are, and have to be on the
        scale of the support set. With ``norm="batch"`` the rows of ``x`` are normalized
        together (transductive): one image's answer depends on the others.

        Raises
        ------
        ValueError
            If one of ``x`` and the support set holds ``uint8`` images, and the other numbers
            outside 0..1.
        """
        check_query(self.support_x, x)
        support, query = (read_by(self.network, rows) for rows in (self.support_x, x))
        return query_outputs(functional(self.network), {}, support, query, norm_of(self.network))

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        """An ordinary network in evaluation mode for this task: see :func:`models.deploy`."""
        support = read_by(self.network, self.support_x)
        with torch.autocast(support.device.type, enabled=False):
            return deploy(self.network, {}, support, expected=self(self.support_x))
