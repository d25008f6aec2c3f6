"""MetaDistiller: two MAML learners, coupled in the inner loop of the student."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel import Params, TaskGradients, assert_second_order_safe
from metalearn_tut.bilevel.checks import check_rows, check_targets, prepare, prepared, ways_of
from metalearn_tut.checks import check_choice, whole_number
from metalearn_tut.distillation.checks import check_apart, check_pair
from metalearn_tut.distillation.guided_student import ORDERS, GuidedStudent
from metalearn_tut.distillation.losses import check_temperature, check_weight, kd_loss
from metalearn_tut.distillation.objective import task_row
from metalearn_tut.distillation.own_stream import OwnStream
from metalearn_tut.files.content import described
from metalearn_tut.learners.gradients import attach_gradients
from metalearn_tut.learners.learner import Learner, TaskLosses
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.predictor import Predictor
from metalearn_tut.machine.threads import each
from metalearn_tut.models.bound import at_rest, forget_statistics
from metalearn_tut.scoring import Metric, TaskLoss, check_aligned, check_loss, scores
from metalearn_tut.tasks.task import Task, TaskBatch


class MetaDistiller(Learner):
    """Task-specific meta distillation (TSMD): meta-learn a student that is taught each task.

    Inner loops, on the support set of task i (the paper's equations 6 and 7):

    ``psi_i'   = psi   - alpha  · grad L_T(psi)``
    ``theta_i' = theta - lambda · grad [ce · L_S(theta) + kd · L_KD(psi_i', theta)]``

    Outer losses, on its query set: ``L_T(psi_i')`` for the teacher and ``L_S(theta_i')`` for the
    student, without distillation. ``psi_i'`` is a constant for the student. So the teacher is
    exactly MAML of the teacher, and with weight 0 the student exactly MAML of the student.

    The order "teacher first" and the student alone being deployed are the paper's; equations
    and losses we know from a summary; several steps, temperature and weights of the losses are
    our reconstruction.

    Parameters
    ----------
    teacher, student : MAML
        The two learners, whose networks are trained in place: ``inner_lr`` and ``inner_steps``
        are alpha and K_T, lambda and K_S; ``first_order=True`` spares a large teacher second
        derivatives; ``inner_steps=0`` is a teacher that does not adapt.
    temperature : float, default 4
        Of the soft labels: see :func:`metalearn_tut.distillation.kd_loss`.
    kd_weight, ce_weight, rkd_weight : float, default 1, 1 and 0
        Weights in the student's inner loss of the distillation loss, the task's loss, and
        :func:`metalearn_tut.distillation.rkd_loss` of the features. With one image per class the
        adapted teacher's labels are all but one-hot, and T² makes their gradient long: choose the
        weight and the student's inner rate together, on validation tasks.
    kd : callable, optional
        (student's outputs, teacher's outputs) -> scalar instead of ``kd_loss``, as for
        regression.
    order : {"sequential", "interleaved", "interleaved_after"}
        All of the teacher's steps first; or step k of the student guided by the teacher before
        (after) its own step k, and by the last teacher once its steps are used up.
    through_teacher : bool, default False
        Do not detach the teacher: it is also trained to make the student succeed (not the paper's).
    outer_kd_weight : float, default 0
        Weight of distillation in the student's outer loss. Not in the paper.
    fixed_teacher : bool, default False
        Leave the teacher's meta-parameters as they are, the paper's baseline Fixed Teacher.
    fixed_teacher_inner_adapt : bool, default True
        Whether a fixed teacher still adapts to each task: the paper's summary leaves both open.

    Raises
    ------
    TypeError, ValueError
        For learners that do not fit together (classes, images, norm, dtype), a temperature
        that is not positive, negative weights, an unknown order.

    References
    ----------
    Wu et al., *Few-Shot Learning of Compact Models via Task-Specific Meta Distillation*, 2023.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> task = tasks.from_arrays(x, y).sampler(ways=3, shots=2, queries=2)[0]
    >>> large = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    >>> distiller = MetaDistiller(MAML(large, 0.1, 3), MAML(nn.Linear(4, 3), 0.1, 3))
    >>> distiller.adapt(task.support_x, task.support_y)(task.query_x).shape
    torch.Size([6, 3])
    >>> distiller.deploy(task)
    Linear(in_features=4, out_features=3, bias=True)
    """

    in_threads = True

    def __init__(
        self,
        teacher: MAML,
        student: MAML,
        *,
        temperature: float = 4.0,
        kd_weight: float = 1.0,
        ce_weight: float = 1.0,
        rkd_weight: float = 0.0,
        kd: TaskLoss | None = None,
        order: str = "sequential",
        through_teacher: bool = False,
        outer_kd_weight: float = 0.0,
        fixed_teacher: bool = False,
        fixed_teacher_inner_adapt: bool = True,
    ) -> None:
        check_temperature(temperature)
        weights = {"kd_weight": kd_weight, "ce_weight": ce_weight, "rkd_weight": rkd_weight}
        for name, weight in {**weights, "outer_kd_weight": outer_kd_weight}.items():
            check_weight(name, weight)
        check_choice("order", order, ORDERS)
        check_pair(teacher, student, features=rkd_weight > 0)
        if fixed_teacher and through_teacher:
            raise ValueError("through_teacher=True trains the teacher; fixed_teacher=True does not")
        kd = partial(kd_loss, temperature=temperature) if kd is None else kd
        check_loss("kd", kd)
        super().__init__()
        self.teacher, self.student, self.kd = teacher, student, kd
        options = {"order": order, "through_teacher": through_teacher}
        self.guided_student = GuidedStudent(kd=kd, **weights, **options)
        self.outer_kd_weight, self.fixed_teacher = outer_kd_weight, fixed_teacher
        adapts = fixed_teacher_inner_adapt or not fixed_teacher
        self.teacher_steps = teacher.inner_steps if adapts else 0

    @property
    def model(self) -> nn.Module:
        """The student's network: of the two the one that answers."""
        return self.student.model

    @model.setter
    def model(self, network: nn.Module) -> None:
        self.student.model = network

    @property
    def inner_steps(self) -> int:
        """The student's inner steps."""
        return self.student.inner_steps

    @property
    def metric(self) -> Metric | None:
        """How a task is scored: the student's."""
        return self.student.metric

    def _parts(self) -> dict[str, MAML]:
        return {"teacher.": self.teacher, "student.": self.student}

    def networks(self) -> dict[str, nn.Module]:
        """Both networks, by what their tensors' names begin with."""
        return {first: learner.model for first, learner in self._parts().items()}

    def meta_parameters(self) -> Params:
        """Those of both learners, as ``teacher.<name>`` (unless fixed) and ``student.<name>``.

        ``meta_train(..., outer_lr={"teacher": 1e-3, "student": 3e-3})`` trains them at two rates.
        """
        parts = self._parts()
        if self.fixed_teacher:
            del parts["teacher."]
        return {f"{k}{n}": p for k, v in parts.items() for n, p in v.meta_parameters().items()}

    def fixed_parameters(self) -> Params:
        """Those of a fixed teacher: students adapt by them, and are nothing without."""
        own = self.teacher.meta_parameters().items() if self.fixed_teacher else ()
        return {f"teacher.{n}": p for n, p in own}

    @property
    def masks(self) -> Params:
        """The masks of both learners, as ``teacher.<name>`` and ``student.<name>``."""
        return {f"{k}{n}": mask for k, v in self._parts().items() for n, mask in v.masks.items()}

    def set_masks(self, masks: Mapping[str, Tensor] | None) -> None:
        """Prune both networks, or either: names as in :attr:`masks`."""
        for first, learner in self._parts().items():
            own = {n: m for n, m in (masks or {}).items() if n.startswith(first)}
            learner.set_masks({n.removeprefix(first): m for n, m in own.items()} or None)

    def settings(self) -> dict[str, Any]:
        """All that decides the learner's results but its tensors, as JSON."""
        names = ("guided_student", "outer_kd_weight", "fixed_teacher", "teacher_steps")
        own = {name: getattr(self, name) for name in (*names, "teacher", "student")}
        if self.fixed_teacher:  # no part of the state, but what the student learns from
            own["teacher_weights"] = [*self.teacher.model.parameters()]
        return described({"method": type(self).__name__, **own})

    def working(self, *, training: bool | None = None) -> MetaDistiller:
        """The same learner on private copies of its networks, in a mode of their own."""
        own = copy.copy(self)
        own.teacher = self.teacher.working(training=training)
        own.student = self.student.working(training=training)
        if training is False:
            own.guided_student = replace(self.guided_student, kd=at_rest(self.kd))
        return own

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query losses with their meta-gradients attached, and the student's accuracy.

        The loss of a task is the sum of the student's and (unless fixed) the teacher's: each
        depends on its own network's parameters alone: one backward pass gives both gradients.
        """
        metas, own = self.meta_parameters(), self.working()
        if not metas:
            raise ValueError("MetaDistiller has nothing to train: all parameters are frozen")
        check_apart(self.teacher, self.student)
        for part in (self.student,) if self.fixed_teacher else (self.student, self.teacher):
            forget_statistics(part.model)
        for part in (own.teacher, own.student):
            assert_second_order_safe(part.model, part.engine, first_order=part.first_order)
        psi = {n: p.detach().requires_grad_() for n, p in self.teacher.meta_parameters().items()}
        theta = {n: p.detach().requires_grad_() for n, p in self.student.meta_parameters().items()}
        params, _ = self.student.start(theta)
        losses = self.student.inner_loss, self.student.loss
        batch = prepare(batch, params, ways_of(self.student.model, params), losses)
        stream = OwnStream(batch.support_x.device)
        with torch.enable_grad():
            rows = each(lambda task: task_row(own, task, psi, theta, stream), batch)
            result = TaskGradients.of_tasks(metas, rows)
        check_aligned(self.student.loss, result.outputs[0], batch.query_y[0])
        scored = scores(self.metric, result.outputs, batch.query_y)
        return TaskLosses(attach_gradients(result, metas), scored)

    @torch.no_grad()
    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int | None = None,
        teacher_steps: int | None = None,
    ) -> Predictor:
        """Learn one task: the teacher from the support set, the student from both.

        Parameters
        ----------
        support_x, support_y : Tensor
            As for :meth:`metalearn_tut.learners.InnerLoopLearner.adapt`.
        steps, teacher_steps : int, optional
            Inner steps of the student and of the teacher, those of training by default.

        Returns
        -------
        Predictor
            Of the student alone; of one trained by plain MAML, taught at test time only.
        """
        steps = self.student.inner_steps if steps is None else whole_number("steps", steps)
        teacher_steps = self.teacher_steps if teacher_steps is None else teacher_steps
        whole_number("teacher_steps", teacher_steps)
        check_rows(support_x, support_y, "support")
        own, student = self.working(training=False), self.student
        ways = student.ways_for(support_y)
        params, _ = student.start(student.meta_parameters(), ways, steps)
        check_targets(support_y, "support_y", ways_of(student.model, params), student.inner_loss)
        x, y = prepared(support_x, support_y, params, "support_x")
        end = own.adapted(x, y, ways=ways, steps=steps, teacher_steps=teacher_steps)
        return Predictor(own.model, end, support_x)

    def adapted(self, x: Tensor, y: Tensor, *, ways: int | None = None, **told: int) -> Params:
        """The student's parameters: the core of :meth:`adapt`, with ``steps`` as there."""
        steps = {"steps": self.inner_steps, "teacher_steps": self.teacher_steps} | told
        return self.guided_student.taught(self.teacher, self.student, x, y, ways=ways, **steps)

    def deploy(self, task: Task) -> nn.Module:
        """The student adapted to a task: an ordinary network without any part of the teacher."""
        return self.adapt(task.support_x, task.support_y).deploy()

    def adaptation_macs(self, n_support: int, macs: Callable[[nn.Module], int]) -> dict[str, int]:
        """Multiply-adds of :meth:`adapt`, those of ``"teacher"`` and ``"student"`` apart.

        A step costs three forward passes over the support set (a backward pass counts as two),
        guidance one for each teacher that is asked. Inference costs ``macs`` of the deployed
        network.

        Parameters
        ----------
        n_support : int
            Examples in the support set.
        macs : callable
            Network -> multiply-adds for one input, as
            ``lambda network: cost.macs(network, (1, 28, 28))``.

        Examples
        --------
        >>> teacher, student = MAML(nn.Linear(4, 3), 0.1, 5), MAML(nn.Linear(4, 3), 0.1, 2)
        >>> MetaDistiller(teacher, student).adaptation_macs(10, lambda network: 12)
        {'teacher': 1920, 'student': 720}
        """
        steps = self.student.inner_steps
        passes = self.guided_student.teacher_passes(self.teacher_steps, steps)
        teacher, student = passes * macs(self.teacher.model), 3 * steps * macs(self.student.model)
        return {"teacher": n_support * teacher, "student": n_support * student}
