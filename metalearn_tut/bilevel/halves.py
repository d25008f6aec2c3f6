"""A meta-gradient in two halves: of the query loss where the task ends, then back to its start.

``d/dtheta l(theta'; query) = (d theta'/d theta)^T g``, ``g = dl/dtheta'``: only the way to
``theta'``, on the small support set, is differentiated twice. The graph of the query set, an
ordinary one, is freed before the way back; and the ways of several tasks, many small operations,
can be one way of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.fx import Graph

from metalearn_tut.bilevel.forward import Forward, functional, norm_of, query_outputs
from metalearn_tut.bilevel.inner import Params, Rate, inner_path, masked, private
from metalearn_tut.bilevel.objective import TaskGradients, check_step_weights, support_loss
from metalearn_tut.bilevel.vectorised import trace, vectorised
from metalearn_tut.machine.threads import each
from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.scoring import TaskLoss
from metalearn_tut.tasks.task import Task, TaskBatch

Found = tuple[Tensor, Tensor, Sequence[Tensor]]
"""Of one task: query loss, query outputs, gradients."""
Start = Callable[[Params], tuple[Params, Rate]]


def in_halves(
    model: nn.Module,
    batch: TaskBatch,
    metas: Params,
    start: Start,
    *,
    inner_loss: TaskLoss,
    **settings: Any,
) -> TaskGradients:
    """Query losses and meta-gradients of all tasks; arguments are those of ``task_gradients``."""
    half = _Halves(model, metas, start, inner_loss=inner_loss, **settings)
    few = _together(model, batch, settings["steps"], inner_loss)
    graph = _graph(model) if few > 1 else None
    if graph is None:
        return TaskGradients.of_tasks(metas, each(half.of_one, batch))
    parts = (_part(batch, i, i + few) for i in range(0, len(batch), few))
    rows = (row for part in parts for row in half.of_several(part, graph))
    return TaskGradients.of_tasks(metas, rows)


class _Halves:
    """What all tasks of a batch have in common."""

    def __init__(
        self,
        model: nn.Module,
        metas: Params,
        start: Start,
        *,
        steps: int,
        loss: TaskLoss,
        inner_loss: TaskLoss,
        step_weights: Sequence[float] | None = None,
        **inner: Any,
    ) -> None:
        check_step_weights(step_weights, steps)
        self.model, self.metas, self.start, self.norm = model, metas, start, norm_of(model)
        self.loss, self.inner_loss, self.step_weights = loss, inner_loss, step_weights
        self.call, self.inner = functional(model), {"steps": steps, **inner}

    def of_one(self, task: Task) -> Found:
        """One task, whose graphs are freed before its thread begins another."""
        leaves = {n: p.detach().requires_grad_() for n, p in self.metas.items()}
        reached = self.reached(self.call, leaves, task, self.inner_loss)
        value, outputs, slopes = self.on_query(task, reached)
        return value, outputs, _back(reached, slopes, leaves)

    def of_several(self, few: TaskBatch, graph: Graph) -> Iterable[Found]:
        """Some tasks, whose inner loops are one, each with its own copy of the meta-parameters."""
        tasks = len(few)
        copies = {
            n: p.detach().expand(tasks, *p.shape).clone().requires_grad_()
            for n, p in self.metas.items()
        }
        forward = vectorised(self.model, tasks, graph)
        reached = self.reached(forward, copies, few, vmap(self.inner_loss))
        own = [[{n: p[i] for n, p in at.items()} for at in reached] for i in range(tasks)]
        found = [*each(lambda pair: self.on_query(*pair), list(zip(few, own, strict=True)))]
        slopes = [torch.stack(of_tasks) for of_tasks in zip(*(f[2] for f in found), strict=True)]
        gradients = _back(reached, slopes, copies)
        return [(f[0], f[1], [g[i] for g in gradients]) for i, f in enumerate(found)]

    def reached(
        self, forward: Forward, metas: Params, task: Task | TaskBatch, inner_loss: TaskLoss
    ) -> list[Params]:
        """Where the inner loop ends; with weights for its steps, where each of them does."""
        params, lr = self.start(metas)
        descended = support_loss(forward, task.support_x, task.support_y, inner_loss)
        path = [*self.path(descended, private(params), lr)]
        return path if self.step_weights else path[-1:]

    def path(self, descended: Callable, params: Params, lr: Rate) -> Iterator[Params]:
        """Where the inner loop begins, if it has no steps, or else what follows each."""
        if not self.inner["steps"]:
            yield masked(params, self.inner.get("masks"))
        yield from inner_path(descended, params, lr=lr, **self.inner)

    def on_query(self, task: Task, reached: Sequence[Params]) -> Found:
        """The query loss and its gradient with respect to all that was reached."""
        total, slopes = 0.0, []
        for weight, at in zip(self.step_weights or [None], reached, strict=True):
            here = {n: p.detach().clone().requires_grad_() for n, p in at.items()}
            outputs = query_outputs(self.call, here, task.support_x, task.query_x, self.norm)
            value = self.loss(outputs, task.query_y)
            value = value if weight is None else weight * value
            slopes += torch.autograd.grad(value, list(here.values()), materialize_grads=True)
            total = total + value.detach()
        return total, outputs.detach(), slopes


def _back(reached: Sequence[Params], slopes: Sequence[Tensor], metas: Params) -> Sequence[Tensor]:
    """``(d reached / d metas)^T slopes``."""
    ends = [p for at in reached for p in at.values()]
    ways = [(p, slope) for p, slope in zip(ends, slopes, strict=True) if p.requires_grad]
    if not ways:
        return [torch.zeros_like(p) for p in metas.values()]
    outputs, slopes = zip(*ways, strict=True)
    return torch.autograd.grad(outputs, list(metas.values()), slopes, materialize_grads=True)


def _part(batch: TaskBatch, first: int, last: int) -> TaskBatch:
    names = ("support_x", "support_y", "query_x", "query_y")
    return TaskBatch(**{n: getattr(batch, n)[first:last] for n in names})


def _together(model: nn.Module, batch: TaskBatch, steps: int, inner_loss: TaskLoss) -> int:
    """How many tasks have one inner loop: so many that it needs no more memory than a query set.

    More than one where that was measured to be faster, on a CPU with oneDNN: of a Conv4, which has
    a batched form, and cross entropy.
    """
    fast = torch.backends.mkldnn.is_available() and not batch.support_x.is_cuda
    known = type(model) is Conv4 and inner_loss.args[0] is F.cross_entropy
    if not fast or not known or not steps:
        return 1
    few = max(1, batch.query_x.shape[1] // (steps * batch.support_x.shape[1]))
    return ceil(len(batch) / ceil(len(batch) / few))


def _graph(model: nn.Module) -> Graph | None:
    """The model's operations, if all have a batched form: its user may have changed it."""
    try:
        return trace(model)
    except ValueError:
        return None
