"""What bi-level learning minimizes: the loss on the query set after adapting to the support."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel.forward import Forward, functional, one_tensor, query_outputs
from metalearn_tut.bilevel.inner import Loss, Params, inner_loop, inner_path, private
from metalearn_tut.machine.threads import each
from metalearn_tut.scoring import TaskLoss, scalar_loss
from metalearn_tut.tasks.task import Task, TaskBatch

Row = tuple[Tensor, Tensor, Callable[[], Sequence[Tensor]]]
"""One task's query loss, its query outputs, and what computes its meta-gradient when called."""


class DeferredGradients(NamedTuple):
    """Losses ``[T]`` and outputs ``[T, ...]`` of T tasks whose meta-gradients are still to come.

    ``gradients[i]()`` computes that of task i, in the order of the meta-parameters, and frees
    the task's graph; until then the graph is kept.
    """

    losses: Tensor
    outputs: Tensor
    gradients: tuple[Callable[[], Sequence[Tensor]], ...]

    @classmethod
    def of_tasks(cls, rows: Iterable[Row]) -> DeferredGradients:
        """Stack the losses and outputs of all rows."""
        losses, outputs, gradients = zip(*rows, strict=True)
        return cls(torch.stack(losses), torch.stack(outputs), gradients)


class TaskGradients(NamedTuple):
    """What one pass over a batch of T tasks gives.

    ``losses [T]`` query losses, ``outputs [T, N·Q, ...]`` query outputs without graph, and
    ``gradients``: for each meta-parameter a tensor ``[T, ...]``, one gradient per task.
    """

    losses: Tensor
    outputs: Tensor
    gradients: Params

    @classmethod
    def of_tasks(
        cls, names: Iterable[str], rows: Iterable[tuple[Tensor, Tensor, Sequence[Tensor]]]
    ) -> TaskGradients:
        """Stack one (loss, outputs, gradients in the order of ``names``) per task."""
        losses, outputs, gradients = zip(*rows, strict=True)
        stacked = (torch.stack(g) for g in zip(*gradients, strict=True))
        return cls(
            torch.stack(losses), torch.stack(outputs), dict(zip(names, stacked, strict=True))
        )


def collect(
    names: Iterable[str], row: Callable[[Task], Row], batch: TaskBatch, deferred: bool
) -> TaskGradients | DeferredGradients:
    """Each task's gradients, its graph freed before its thread begins another; or all for later."""
    if deferred:
        return DeferredGradients.of_tasks(each(row, batch))

    def whole(task: Task) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        value, outputs, gradients = row(task)
        return value, outputs, gradients()

    return TaskGradients.of_tasks(names, each(whole, batch))


def support_loss(forward: Forward, x: Tensor, y: Tensor, loss: TaskLoss) -> Loss:
    """What the inner loop descends: parameters -> their loss on a support set."""
    return lambda params: loss(one_tensor(forward(params, x)), y).sum()  # over stacked tasks


def adapted(
    model: nn.Module, params: Params, x: Tensor, y: Tensor, *, loss: TaskLoss, **inner: Any
) -> Params:
    """The parameters after adapting ``params`` to a support set: the core of :func:`adapt`.

    It takes what was checked (:func:`~metalearn_tut.bilevel.checks.checked_support`) and looks
    at no value, so that it can be traced with free sizes. ``inner`` are the arguments of
    :func:`inner_path`.
    """
    descended = support_loss(functional(model), x, y, scalar_loss(loss))
    return inner_loop(descended, private(params), **inner)


def query_loss(
    forward: Forward,
    params: Params,
    task: Task | TaskBatch,
    *,
    steps: int,
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    norm: str = "none",
    step_weights: Sequence[float] | None = None,
    path: Callable[..., Iterator[Params]] = inner_path,
    axis: int = 0,
    **inner: Any,
) -> tuple[Tensor, Tensor]:
    """Adapt to the support set, then judge on the query set: the inside of bi-level learning.

    ``L_i(theta) = l(f_{theta_i'}(query_x), query_y)`` with ``theta_i'`` the end of the inner
    loop (Finn et al. 2017, equation 1), or the sum over steps of ``step_weights[k]`` times
    the query loss after step k+1 (the multi-step loss of Antoniou et al. 2019).

    Returns the query loss (``[T]`` for a stacked batch) and the query outputs after the last
    step. ``steps`` and ``inner`` are arguments of :func:`inner_path`.
    """
    inner_loss = loss if inner_loss is None else inner_loss

    descended = support_loss(forward, task.support_x, task.support_y, inner_loss)

    def on_query(p: Params) -> tuple[Tensor, Tensor]:
        outputs = query_outputs(forward, p, task.support_x, task.query_x, norm, axis)
        return loss(outputs, task.query_y), outputs

    if step_weights is None:
        return on_query(inner_loop(descended, params, path=path, steps=steps, **inner))
    check_step_weights(step_weights, steps)
    total: Tensor | float = 0.0
    reached = path(descended, params, steps=steps, **inner)
    for weight, adapted in zip(step_weights, reached, strict=True):
        value, outputs = on_query(adapted)
        total = total + weight * value
    return total, outputs


def check_step_weights(step_weights: Sequence[float] | None, steps: int) -> None:
    """Refuse weights that are not one for each step, of which there is one at least."""
    if step_weights is not None and (len(step_weights) != steps or not steps):
        raise ValueError(
            f"step_weights must have one weight for each of the {steps} inner steps (at least "
            f"one), got {len(step_weights)}"
        )
