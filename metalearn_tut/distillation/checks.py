"""Which two learners can be teacher and student."""

from __future__ import annotations

from typing import Any

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.bilevel.checks import ways_of
from metalearn_tut.learners.maml import MAML
from metalearn_tut.models.few_shot import FewShotNetwork


def check_pair(teacher: MAML, student: MAML, features: bool) -> None:
    """Refuse two learners that cannot be teacher and student.

    Raises
    ------
    TypeError
        If one is not a :class:`MAML` (its relatives with another meta-gradient are not).
    ValueError
        Naming what does not fit.
    """
    for name, learner in (("teacher", teacher), ("student", student)):
        if type(learner) is not MAML:
            raise TypeError(f"{name} must be a MAML learner, got {type(learner).__name__}")
        _check_settings(name, learner)
        plain = type(learner.model).forward is FewShotNetwork.forward
        if features and not plain:
            raise ValueError(
                "rkd_weight > 0 needs networks with embed() and a head on it, as Conv4 and "
                f"ResNet12, but the {name} is a {type(learner.model).__name__}"
            )
    models = teacher.model, student.model
    likes = [next(iter(parameters_of(m).values())) for m in models]
    _same("number of classes", *(ways_of(m, parameters_of(m)) for m in models))
    _same("in_channels", *(getattr(m, "in_channels", None) for m in models))
    _same("image_size", *(getattr(m, "image_size", None) for m in models))
    _same("norm", *(m.norm if isinstance(m, FewShotNetwork) else None for m in models))
    _same("dtype", *(p.dtype for p in likes))
    _same("device", *(p.device for p in likes))


def check_apart(teacher: MAML, student: MAML) -> None:
    """Refuse to train networks that share a tensor: each would move the other's.

    Raises
    ------
    ValueError
        Naming the first that is shared and not frozen.
    """
    taught = {id(p): n for n, p in teacher.model.named_parameters()}
    shared = [n for n, p in student.meta_parameters().items() if id(p) in taught]
    if shared:
        raise ValueError(
            f"teacher and student share {shared[0]}, which both would move: train a copy of it "
            "(copy.deepcopy), or freeze it (requires_grad_(False))"
        )


def _same(what: str, teachers: Any, students: Any) -> None:
    """One of them may be unknown, which is no difference."""
    if None not in (teachers, students) and teachers != students:
        raise ValueError(
            f"teacher and student must have the same {what}, "
            f"got {teachers!r} (teacher) and {students!r} (student)"
        )


def _check_settings(name: str, learner: MAML) -> None:
    found = {
        "engine": (learner.engine, "functional"),
        "deferred": (learner.deferred, False),
        "multi_step_loss": (learner.multi_step_loss, 0),
        "prox_weight": (learner.prox_weight, 0),
    }
    for setting, (value, allowed) in found.items():
        if value != allowed:
            raise ValueError(f"the {name} must have {setting}={allowed!r}, got {value!r}")
