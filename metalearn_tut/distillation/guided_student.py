"""The two inner loops of one task, and what the teacher answers in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel import Params, functional, inner_loop, inner_path
from metalearn_tut.bilevel.forward import stepped_groups
from metalearn_tut.bilevel.inner import is_per_step, masked, private
from metalearn_tut.distillation.losses import rkd_loss
from metalearn_tut.learners.maml import MAML
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.scoring import TaskLoss, scalar_loss

ORDERS = ("sequential", "interleaved", "interleaved_after")


class TeacherOutput(NamedTuple):
    """Logits ``[B, ways]`` and, where they are wanted, features ``[B, F]`` of a batch."""

    logits: Tensor
    features: Tensor | None


class _WithFeatures(nn.Module):
    def __init__(self, network: FewShotNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.embed(x)
        return self.network.head(features), features


def output_of(model: nn.Module, features: bool) -> Callable[[Params, Tensor], TeacherOutput]:
    """``(params, x) -> TeacherOutput``: what the model answers to a batch, computed once."""
    if not features:
        call = functional(model)
        return lambda params, x: TeacherOutput(call(params, x), None)
    both = functional(_WithFeatures(model))
    return lambda params, x: TeacherOutput(*both({f"network.{n}": params[n] for n in params}, x))


def _inner_settings(learner: MAML, steps: int) -> dict[str, Any]:
    """Arguments of the inner loop, which are those of the learner on its own."""
    own = {"first_order": learner.first_order, "recompute": learner.recompute}
    return own | learner.inner_settings(steps)


def teacher_path(
    teacher: MAML,
    psi: Params,
    x: Tensor,
    y: Tensor,
    steps: int,
    *,
    ways: int | None = None,
    every: bool = False,
) -> Sequence[Params]:
    """The teacher's parameters after its last step; or before its steps and after ``every`` one."""
    params, lr = teacher.start(psi, ways, steps)
    params = private(params)
    inner = _inner_settings(teacher, steps)
    forward, loss = functional(teacher.model), scalar_loss(teacher.inner_loss, "inner_loss")
    path = inner_path(lambda p: loss(forward(p, x), y), params, steps=steps, lr=lr, **inner)
    begin = masked(params, inner["masks"])
    return deque(chain([begin], path), maxlen=None if every else 1)


@dataclass(frozen=True)
class GuidedStudent:
    """How a student learns a task under its teacher's guidance.

    Parameters
    ----------
    kd, kd_weight, ce_weight, rkd_weight, order, through_teacher
        As for :class:`MetaDistiller`, checked there.
    """

    kd: TaskLoss
    kd_weight: float
    ce_weight: float
    rkd_weight: float
    order: str
    through_teacher: bool

    @property
    def listens(self) -> bool:
        """Whether the student is guided at all."""
        return self.kd_weight > 0 or self.rkd_weight > 0

    @property
    def every(self) -> bool:
        """Whether more than the teacher's last parameters are needed."""
        return self.order != "sequential"

    def guided_by(self, last: int, steps: int) -> list[int]:
        """After how many of its own ``last`` steps the teacher guides each of the student's."""
        if not self.every:
            return [last] * steps
        shift = 1 if self.order == "interleaved_after" else 0
        return [min(k + shift, last) for k in range(steps)]

    def teacher_passes(self, last: int, steps: int) -> int:
        """Forward passes of the teacher (a backward pass counts as two) for the student's steps."""
        if not (self.listens and steps):
            return 0
        return 3 * last + len(set(self.guided_by(last, steps)))

    def guides(
        self, model: nn.Module, reached: Sequence[Params], x: Tensor, steps: int
    ) -> list[TeacherOutput | None]:
        """What the teacher answers to the support set, for each step of the student."""
        if not self.listens:
            return [None] * steps
        output, at = output_of(model, self.rkd_weight > 0), self.guided_by(len(reached) - 1, steps)
        with nullcontext() if self.through_teacher else torch.no_grad():
            outputs = {k: output(reached[k], x) for k in sorted(set(at))}
        return [outputs[k] for k in at]

    def taught(
        self,
        teacher: MAML,
        student: MAML,
        x: Tensor,
        y: Tensor,
        *,
        steps: int,
        teacher_steps: int,
        ways: int | None = None,
    ) -> Params:
        """The student's parameters after all ``steps``, and ``teacher_steps`` of its teacher."""
        reached: Sequence[Params] = ()
        if self.listens and steps:
            psi, options = teacher.meta_parameters(), {"ways": ways, "every": self.every}
            reached = teacher_path(teacher, psi, x, y, teacher_steps, **options)
        guides = self.guides(teacher.model, reached, x, steps)
        return self.learn(student, student.meta_parameters(), guides, x, y, ways=ways)

    def learn(
        self,
        student: MAML,
        theta: Params,
        guides: Sequence[TeacherOutput | None],
        x: Tensor,
        y: Tensor,
        *,
        ways: int | None = None,
    ) -> Params:
        """The student's parameters after one inner step for each guide."""
        params, lr = student.start(theta, ways, len(guides))
        inner = _inner_settings(student, len(guides))
        if self.rkd_weight:  # features pull at a network behind a zero head, too
            inner["groups"] = stepped_groups(student.model, student.groups)
        params = masked(private(params), inner["masks"])
        output = output_of(student.model, self.rkd_weight > 0)
        loss, kd = scalar_loss(student.inner_loss, "inner_loss"), scalar_loss(self.kd, "kd")

        def support_loss(guide: TeacherOutput | None, p: Params) -> Tensor:
            own = output(p, x)
            total = self.ce_weight * loss(own.logits, y)
            if self.kd_weight:
                total = total + self.kd_weight * kd(own.logits, guide.logits)
            if self.rkd_weight:
                total = total + self.rkd_weight * rkd_loss(own.features, guide.features)
            return total

        for k, guide in enumerate(guides):
            rate = lr[k : k + 1] if is_per_step(lr) else lr
            params = inner_loop(partial(support_loss, guide), params, steps=1, lr=rate, **inner)
        return params
