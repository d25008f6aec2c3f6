"""MetaDistiller: two MAML learners, coupled in the inner loop of the student."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel import (
    Params,
    TaskGradients,
    assert_second_order_safe,
    functional,
    query_outputs,
)
from metalearn_tut.bilevel.checks import check_rows, check_targets, prepare, prepared, ways_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.checks import check_choice, whole_number
from metalearn_tut.distillation.coupling import ORDERS, Coupling, teach
from metalearn_tut.distillation.losses import check_temperature, check_weight, kd_loss
from metalearn_tut.distillation.parts import OwnStream, check_apart, check_pair
from metalearn_tut.files.content import described
from metalearn_tut.learners.learner import Predictor, TaskLosses, attach_gradients
from metalearn_tut.learners.maml import MAML
from metalearn_tut.models.bound import at_rest, forget_statistics
from metalearn_tut.scoring import Metric, check_aligned, check_loss, scalar_loss, scores
from metalearn_tut.tasks.task import Task, TaskBatch


class MetaDistiller:
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
        Do not detach the teacher: it is then also trained to make the student succeed. Not in
        the paper.
    outer_kd_weight : float, default 0
        Weight of distillation in the student's outer loss. Not in the paper.
    fixed_teacher : bool, default False
        Leave the teacher's meta-parameters as they are, the paper's baseline Fixed Teacher.
        They are then no part of checkpoints.
    fixed_teacher_inner_adapt : bool, default True
        Whether a fixed teacher still adapts to each task: the summary of the paper can be read
        both ways.

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
        self.teacher, self.student = teacher, student
        kd = partial(kd_loss, temperature=temperature) if kd is None else kd
        check_loss("kd", kd)
        self.coupling = Coupling(kd=kd, order=order, through_teacher=through_teacher, **weights)
        self.outer_kd_weight, self.fixed_teacher = outer_kd_weight, fixed_teacher
        adapts = fixed_teacher_inner_adapt or not fixed_teacher
        self.teacher_steps = teacher.inner_steps if adapts else 0

    @property
    def model(self) -> nn.Module:
        """The student's network: of the two the one that answers."""
        return self.student.model

    @property
    def inner_steps(self) -> int:
        """The student's inner steps."""
        return self.student.inner_steps

    def meta_parameters(self) -> Params:
        """Those of both learners, as ``teacher.<name>`` (unless fixed) and ``student.<name>``.

        ``meta_train(..., outer_lr={"teacher": 1e-3, "student": 3e-3})`` trains them at two rates.
        """
        learners = {"student": self.student}
        if not self.fixed_teacher:
            learners = {"teacher": self.teacher, **learners}
        return {f"{k}.{n}": p for k, v in learners.items() for n, p in v.meta_parameters().items()}

    def fixed_parameters(self) -> Params:
        """Those of a fixed teacher: students adapt by them, and are nothing without."""
        own = self.teacher.meta_parameters().items() if self.fixed_teacher else ()
        return {f"teacher.{n}": p for n, p in own}

    @property
    def metric(self) -> Metric | None:
        """How a task is scored: the student's."""
        return self.student.metric

    @property
    def masks(self) -> Params:
        """The masks of both learners, as ``teacher.<name>`` and ``student.<name>``."""
        learners = {"teacher": self.teacher, "student": self.student}
        return {f"{k}.{n}": mask for k, v in learners.items() for n, mask in v.masks.items()}

    def set_masks(self, masks: Mapping[str, Tensor] | None) -> None:
        """Prune both networks, or either: names as in :attr:`masks`."""
        for name, learner in (("teacher", self.teacher), ("student", self.student)):
            own = {n: m for n, m in (masks or {}).items() if n.startswith(f"{name}.")}
            learner.set_masks({n.removeprefix(f"{name}."): m for n, m in own.items()} or None)

    def networks(self) -> dict[str, nn.Module]:
        """Both networks, by the name that is the first part of their tensors' names."""
        return {"teacher": self.teacher.model, "student": self.student.model}

    def settings(self) -> dict[str, Any]:
        """All that decides the learner's results but its tensors, as JSON."""
        names = ("coupling", "outer_kd_weight", "fixed_teacher", "teacher_steps")
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
            own.coupling = replace(self.coupling, kd=at_rest(self.coupling.kd))
        return own

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query losses with their meta-gradients attached, and the student's accuracy.

        The loss of a task is the sum of the student's and (unless fixed) the teacher's: each
        depends on its own network's parameters alone, so that one backward pass gives both
        gradients.

        Parameters
        ----------
        batch : TaskBatch
            T tasks.
        progress : float
            Not used.
        """
        metas, own = self.meta_parameters(), self.working()
        if not metas:
            raise ValueError("MetaDistiller has nothing to train: all parameters are frozen")
        check_apart(self.teacher, self.student)
        learners = (own.teacher, own.student)
        forget_statistics(self.student.model)
        if not self.fixed_teacher:
            forget_statistics(self.teacher.model)
        for learner in learners:
            first_order = learner.options["first_order"]
            assert_second_order_safe(learner.model, learner.engine, first_order=first_order)
        psi, theta = ({n: _leaf(p) for n, p in v.meta_parameters().items()} for v in learners)
        params, _ = self.student.start(theta)
        losses = self.student.inner_loss, self.student.loss
        batch = prepare(batch, params, ways_of(self.student.model, params), losses)
        stream = OwnStream(batch.support_x.device)
        with torch.enable_grad():
            rows = (own._task(task, psi, theta, stream) for task in batch)
            result = TaskGradients.of_tasks(metas, rows)
        check_aligned(self.student.loss, result.outputs[0], batch.query_y[0])
        scored = scores(self.metric, result.outputs, batch.query_y)
        return TaskLosses(attach_gradients(result, metas), scored)

    def _task(
        self, task: Task, psi: Params, theta: Params, stream: OwnStream
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Summed query loss, the student's query outputs, gradients in order of the metas."""
        support, coupling = (task.support_x, task.support_y), self.coupling
        value, gradients, teachers, fixed = 0.0, [], None, self.fixed_teacher
        with stream(), torch.set_grad_enabled(not fixed):
            reached = teach(self.teacher, psi, *support, self.teacher_steps, every=coupling.every)
            if not fixed or self.outer_kd_weight:
                teachers = _on_query(self.teacher, reached[-1], task)
        if not fixed:
            value = scalar_loss(self.teacher.loss)(teachers, task.query_y)
        if not fixed and not coupling.through_teacher:  # free the large graph, then build the next
            gradients = _gradients(value, psi.values())
            value, teachers = value.detach(), teachers.detach()
        with torch.random.fork_rng(stream.gpus):
            guides = coupling.guides(
                self.teacher.model, reached, task.support_x, self.student.inner_steps
            )
        end = coupling.learn(self.student, theta, guides, *support)
        outputs = _on_query(self.student, end, task)
        value = value + scalar_loss(self.student.loss)(outputs, task.query_y)
        if self.outer_kd_weight:
            value = value + self.outer_kd_weight * scalar_loss(coupling.kd, "kd")(outputs, teachers)
        left = [*psi.values()] if coupling.through_teacher else []
        gradients = [*gradients, *_gradients(value, [*left, *theta.values()])]
        return value.detach(), outputs.detach(), gradients

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
            As for :meth:`metalearn_tut.learners.MAML.adapt`.
        steps, teacher_steps : int, optional
            Inner steps of the student and of the teacher, those of training by default.

        Returns
        -------
        Predictor
            Of the student alone. A student trained by plain MAML gets "distillation at test
            time only" here.
        """
        steps = self.student.inner_steps if steps is None else whole_number("steps", steps)
        teacher_steps = self.teacher_steps if teacher_steps is None else teacher_steps
        whole_number("teacher_steps", teacher_steps)
        own = self.working(training=False)
        teacher, student = own.teacher, own.student
        theta, model = student.meta_parameters(), student.model
        check_rows(support_x, support_y, "support")
        ways = student.ways_for(support_y)
        params, _ = student.start(theta, ways, steps)
        check_targets(support_y, "support_y", ways_of(model, params), student.inner_loss)
        x, y = prepared(support_x, support_y, params, "support_x")
        reached: Sequence[Params] = ()
        if self.coupling.guided and steps:
            psi, every = teacher.meta_parameters(), self.coupling.every
            reached = teach(teacher, psi, x, y, teacher_steps, ways=ways, every=every)
        guides = own.coupling.guides(teacher.model, reached, x, steps)
        end = own.coupling.learn(student, theta, guides, x, y, ways=ways)
        return Predictor(model, end, support_x)

    def deploy(self, task: Task) -> nn.Module:
        """The student adapted to a task as an ordinary network: no part of the teacher is in it.

        It is what runs on the device, and what is to be saved, counted and timed.
        """
        return self.adapt(task.support_x, task.support_y).deploy()

    def adaptation_macs(self, n_support: int, macs: Callable[[nn.Module], int]) -> dict[str, int]:
        """Multiply-adds of :meth:`adapt`, those of ``"teacher"`` and ``"student"`` apart.

        A step costs three forward passes over the support set (a backward pass counts as two),
        guidance one for each teacher that is asked. Inference costs ``macs`` of the deployed
        network, and no teacher.

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
        steps, passes = self.student.inner_steps, 0
        if self.coupling.guided and steps:
            asked = self.coupling.guided_by(self.teacher_steps, steps)
            passes = 3 * self.teacher_steps + len(set(asked))
        own = {"teacher": (passes, self.teacher), "student": (3 * steps, self.student)}
        return {name: n * n_support * macs(learner.model) for name, (n, learner) in own.items()}


def _leaf(p: Tensor) -> Tensor:
    return p.detach().requires_grad_()


def _gradients(value: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(leaves), materialize_grads=True))


def _on_query(learner: MAML, params: Params, task: Task) -> Tensor:
    forward, norm = functional(learner.model), norm_of(learner.model)
    return query_outputs(forward, params, task.support_x, task.query_x, norm)
