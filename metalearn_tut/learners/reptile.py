"""Reptile: towards where each task ends, without a derivative through the inner loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel import Params
from metalearn_tut.bilevel.checks import prepare, ways_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.bilevel.inner import Rate, masked, private
from metalearn_tut.learners.inner_loop import InnerLoopLearner
from metalearn_tut.learners.learner import TaskLosses
from metalearn_tut.machine.threads import each
from metalearn_tut.models.bound import for_tasks
from metalearn_tut.scoring import Metric, TaskLoss, scalar_loss
from metalearn_tut.tasks.task import Task, TaskBatch


class Reptile(InnerLoopLearner):
    """Reptile (Nichol et al. 2018): move the start towards where each task ends.

    The update direction of task i is ``theta - theta_i'``, with ``theta_i'`` the result of
    plain descent on all of the task's labelled examples, support and query; no derivative
    passes through the inner loop. The reported losses are those of the query set after
    adapting to the support set, as for MAML, and their gradients are the directions: train
    with the mean of the losses.

    Parameters
    ----------
    model, inner_lr, inner_steps, zero_head, head, groups
        As for :class:`MAML`.
    loss, inner_loss, metric, masks, prox_weight
        As there.
    """

    in_threads = True

    def __init__(
        self,
        model: nn.Module,
        inner_lr: Rate = 0.4,
        inner_steps: int = 1,
        *,
        zero_head: bool = False,
        head: str = "head",
        groups: Sequence[Sequence[str]] | None = None,
        loss: TaskLoss = F.cross_entropy,
        inner_loss: TaskLoss | None = None,
        metric: Metric | None = None,
        masks: Mapping[str, Tensor] | None = None,
        prox_weight: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            inner_lr,
            inner_steps,
            zero_head=zero_head,
            head=head,
            groups=groups,
            loss=loss,
            inner_loss=inner_loss,
            metric=metric,
            masks=masks,
            prox_weight=prox_weight,
        )

    @torch.no_grad()
    def _task(
        self, network: nn.Module, task: Task, theta: Params, lr: Rate
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Query loss and outputs, and how far each meta-parameter is from where the task ends."""
        forward, norm = bilevel.functional(network), norm_of(network)
        inner_loss, theta = scalar_loss(self.inner_loss, "inner_loss"), private(theta)
        inner = {"steps": self.inner_steps, "lr": lr, **self.inner_settings(self.inner_steps)}
        x = torch.cat([task.support_x, task.query_x])
        y = torch.cat([task.support_y, task.query_y])
        end = bilevel.inner_loop(lambda p: inner_loss(forward(p, x), y), theta, **inner)
        losses = {"loss": scalar_loss(self.loss), "inner_loss": inner_loss}
        loss, outputs = bilevel.query_loss(forward, theta, task, norm=norm, **losses, **inner)
        begin = masked(theta, inner.get("masks"))
        return loss, outputs, [begin[n] - end[n] for n in self.meta_parameters()]

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query losses that carry ``theta - theta_i'`` as their gradients."""
        metas = self._trained()
        theta, lr = self.start(metas)
        losses = self.inner_loss, self.loss
        if batch.support_y.shape[2:] != batch.query_y.shape[2:]:
            raise ValueError(
                "Reptile learns from support and query set as one: their targets must have one "
                f"shape, got {list(batch.support_y.shape[1:])} and {list(batch.query_y.shape[1:])}"
            )
        batch = prepare(batch, theta, ways_of(self.model, theta), losses)
        network = for_tasks(self.model)
        rows = each(lambda task: self._task(network, task, theta, lr), batch)
        return self._judged(bilevel.TaskGradients.of_tasks(metas, rows), metas, batch)
