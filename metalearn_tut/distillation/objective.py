"""What a pair learns from one task: both query losses, and their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metalearn_tut.bilevel import Params, functional, query_outputs
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.distillation.guided_student import teacher_path
from metalearn_tut.distillation.own_stream import OwnStream
from metalearn_tut.learners.maml import MAML
from metalearn_tut.scoring import scalar_loss
from metalearn_tut.tasks.task import Task

if TYPE_CHECKING:
    from metalearn_tut.distillation.distiller import MetaDistiller


def task_row(
    pair: MetaDistiller, task: Task, psi: Params, theta: Params, stream: OwnStream
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Summed query loss, the student's query outputs, gradients in order of the metas."""
    support, guided = (task.support_x, task.support_y), pair.guided_student
    value, gradients, teachers, trained = 0.0, [], None, not pair.fixed_teacher
    with stream(), torch.set_grad_enabled(trained):
        reached = teacher_path(pair.teacher, psi, *support, pair.teacher_steps, every=guided.every)
        if trained or pair.outer_kd_weight:
            teachers = _on_query(pair.teacher, reached[-1], task)
    if trained:
        value = scalar_loss(pair.teacher.loss)(teachers, task.query_y)
    if trained and not guided.through_teacher:  # free the large graph, then build the next
        gradients = _gradients(value, psi.values())
        value, teachers = value.detach(), teachers.detach()
    with stream.aside():
        steps = pair.student.inner_steps
        guides = guided.guides(pair.teacher.model, reached, task.support_x, steps)
    end = guided.learn(pair.student, theta, guides, *support)
    outputs = _on_query(pair.student, end, task)
    value = value + scalar_loss(pair.student.loss)(outputs, task.query_y)
    if pair.outer_kd_weight:
        value = value + pair.outer_kd_weight * scalar_loss(guided.kd, "kd")(outputs, teachers)
    left = [*psi.values()] if guided.through_teacher else []
    gradients = [*gradients, *_gradients(value, [*left, *theta.values()])]
    return value.detach(), outputs.detach(), gradients


def _gradients(value: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(leaves), materialize_grads=True))


def _on_query(learner: MAML, params: Params, task: Task) -> Tensor:
    forward, norm = functional(learner.model), norm_of(learner.model)
    return query_outputs(forward, params, task.support_x, task.query_x, norm)
