"""The algorithms: what each can be told, and the learner that follows. A new one is a class here.

An algorithm is a frozen dataclass. Its fields are its options on the command line, with their
types, defaults, allowed values and help; its :meth:`~Algorithm.config` is what a run keeps; and
:meth:`~Algorithm.learner` makes of a network and such a configuration a learner. That imports
PyTorch, and nothing else here does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from metalearn_tut.runs.options import filled, option, options_of

if TYPE_CHECKING:
    from torch import nn

    from metalearn_tut.learners import Learner


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What an algorithm can be told."""

    name: ClassVar[str]
    _made_by: ClassVar[str]
    """``module:callable`` of (network, settings) that makes the learner."""

    @classmethod
    def of_options(cls, given: Mapping[str, Any]) -> Algorithm:
        """The algorithm with these options of the command line; all others are as usual.

        Raises
        ------
        ValueError
            For an option, or a value, that the algorithm has no use for.
        """
        known = options_of(cls)
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"--{name.replace('_', '-')}: {cls.name} has no use for it")
            if (choices := known[name].choices) and value not in choices:
                raise ValueError(f"{known[name].flag} {value}: {cls.name} has no use for it")
        return filled(cls, given)

    def config(self) -> dict[str, Any]:
        """What a run keeps of it: plain JSON, from which ``build_learner`` starts."""
        of_training = {o.name for o in options_of(type(self)).values() if o.of_training}
        kept = {n: v for n, v in asdict(self).items() if n not in of_training}
        return {"name": self.name, **kept}

    def outer_rates(self, outer_lr: float) -> dict[str, Any]:
        """The rates of the outer loop, as arguments of what trains."""
        return {"outer_lr": outer_lr}

    @classmethod
    def learner(cls, model: nn.Module, **settings: Any) -> Learner:
        """An untrained learner; what is not set is as in the learner's own class."""
        module, name = cls._made_by.split(":")
        return getattr(importlib.import_module(module), name)(model, **settings)


@dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """Gradient steps on a task."""

    inner_lr: float = option(0.4, "Inner step size.")
    inner_steps: int = option(1, "Inner steps.", min=0)
    zero_head: bool = option(False, "Start each task from a head at zero.")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates of these steps that are learned."""

    rate_mode: str = option(
        "fixed",
        "Inner rates to learn.",
        choices=("fixed", "shared", "per_layer", "per_layer_and_step", "per_weight"),
    )


@dataclass(frozen=True, kw_only=True)
class MetaGradient:
    """The gradient through these steps."""

    multi_step_loss: float = option(
        0.0, "Share of training with losses after every inner step.", min=0, max=1
    )
    engine: str = option(
        "functional",
        "How meta-gradients are computed.",
        choices=("functional", "vectorised", "higher"),
    )


@dataclass(frozen=True, kw_only=True)
class MAMLOptions(MetaGradient, Rates, InnerLoop, Algorithm):
    """Finn et al. 2017: learn where gradient descent starts."""

    name = "maml"
    _made_by = "metalearn_tut.learners:MAML"


@dataclass(frozen=True, kw_only=True)
class FOMAMLOptions(MAMLOptions):
    """First-order MAML."""

    name = "fomaml"
    _made_by = "metalearn_tut.learners:fomaml"


@dataclass(frozen=True, kw_only=True)
class ANILOptions(MAMLOptions):
    """Raghu et al. 2020: the inner loop steps the head alone."""

    name = "anil"
    _made_by = "metalearn_tut.learners:anil"


@dataclass(frozen=True, kw_only=True)
class ReptileOptions(InnerLoop, Algorithm):
    """Nichol et al. 2018: towards where each task ends."""

    name = "reptile"
    _made_by = "metalearn_tut.learners:Reptile"


@dataclass(frozen=True, kw_only=True)
class MetaSGDOptions(MetaGradient, InnerLoop, Algorithm):
    """Li et al. 2017: a learned inner rate for every weight."""

    name = "metasgd"
    _made_by = "metalearn_tut.learners:meta_sgd"
    inner_lr: float = option(0.1, "Inner step size.")


@dataclass(frozen=True, kw_only=True)
class ProtoNetOptions(Algorithm):
    """Snell et al. 2017: the nearest mean feature."""

    name = "protonet"
    _made_by = "metalearn_tut.learners:ProtoNet"


@dataclass(frozen=True, kw_only=True)
class StudentOptions(Rates, InnerLoop):
    """The MAML learner that is taught."""


@dataclass(frozen=True, kw_only=True)
class TSMDOptions(Algorithm):
    """Wu et al. 2023: a teacher learns each task first, then teaches it to the student.

    Told by its name, ``teacher`` is a run; in a configuration it is one of its own, with
    ``model``, ``algorithm`` and the ``run`` that it begins with.
    """

    name = "tsmd"
    student: StudentOptions = field(default_factory=StudentOptions)
    teacher: str | Mapping[str, Any] | None = option(None, "Trained run that teaches (tsmd).")
    fixed_teacher: bool = option(False, "Do not train it further.")
    kd_weight: float = option(1.0, "Weight of its labels.")
    temperature: float = option(4.0, "What softens its labels.")
    teacher_outer_lr: float | None = option(
        None, "Adam's rate for it.  [default: --outer-lr]", of_training=True
    )

    def __post_init__(self) -> None:
        if self.teacher is None:
            raise ValueError("--algorithm tsmd needs --teacher: a run that was trained before")
        if self.fixed_teacher and self.teacher_outer_lr is not None:
            raise ValueError("--teacher-outer-lr: a fixed teacher has no use for it")

    def outer_rates(self, outer_lr: float) -> dict[str, Any]:
        """One rate for both, or one for each."""
        if self.teacher_outer_lr is None:
            return {"outer_lr": outer_lr}
        return {"outer_lr": {"teacher": self.teacher_outer_lr, "student": outer_lr}}

    @classmethod
    def learner(
        cls,
        model: nn.Module,
        *,
        teacher: Mapping[str, Any],
        student: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Learner:
        """A student on this model, and its teacher: that of a run, or an untrained one.

        A run of None says that the weights of a trained one will be put into it.
        """
        from metalearn_tut import learners
        from metalearn_tut.distillation import MetaDistiller
        from metalearn_tut.runs.building import build_learner, load_learner

        device = next(model.parameters()).device
        if settings.get("fixed_teacher") and "run" not in teacher:
            raise ValueError("a fixed teacher must be a trained one: its configuration needs a run")
        if teacher.get("run") is not None:
            known = load_learner(teacher["run"], device)
        else:
            known = build_learner(teacher, device)
        return MetaDistiller(known, learners.MAML(model, **student or {}), **settings)


@dataclass(frozen=True, kw_only=True)
class Adaptation(Algorithm):
    """A node's step on a task, and how the learner is trained through it."""

    inner_lr: float = option(0.4, "Step size of a node's adaptation.")
    update: str = option(
        "full",
        "Meta-gradient: exact, or without second derivatives.",
        choices=("full", "first_order"),
    )


@dataclass(frozen=True, kw_only=True)
class MetaGaterOptions(Adaptation):
    """Lin et al. 2020: a backbone and its channel gates, which adapt in turn."""

    name = "metagater"
    _made_by = "metalearn_tut.gating:MetaGater"
    gate_lr: float | None = option(None, "That of the gates.  [default: --inner-lr]")
    sparsity: float = option(2.0, "Price of open filters.")
    target: float = option(0.5, "Share of open filters that is free.")
    warmup: float = option(0.0, "Share of training without the price.")
    gate_outer_lr: float = option(3.0, "That of the gates.", of_training=True)

    def outer_rates(self, outer_lr: float) -> dict[str, Any]:
        """One rate for the backbone and one for the gates."""
        return {"outer_lr": outer_lr, "gate_outer_lr": self.gate_outer_lr}


@dataclass(frozen=True, kw_only=True)
class PerFedAvgOptions(Adaptation):
    """Fallah et al. 2020: nodes descend their loss after one step, as in MAML."""

    name = "per_fedavg"
    _made_by = "metalearn_tut.federated:per_fed_avg"
    update: str = option("full", choices=("full", "first_order"))

    @classmethod
    def learner(cls, model: nn.Module, *, update: str = "full", **settings: Any) -> Learner:
        """An untrained learner, of first order where the update is."""
        return super().learner(model, **{"first_order": update == "first_order", **settings})


@dataclass(frozen=True, kw_only=True)
class FedAvgOptions(Adaptation):
    """McMahan et al. 2017: nodes descend their loss as it is; only evaluation adapts."""

    name = "fedavg"
    _made_by = "metalearn_tut.federated:fed_avg"
    update: str = option("full", choices=("full",))

    @classmethod
    def learner(cls, model: nn.Module, *, update: str = "full", **settings: Any) -> Learner:
        """An untrained learner; there is nothing to differentiate through."""
        return super().learner(model, **settings)


def _by_name(*kinds: type[Algorithm]) -> dict[str, type[Algorithm]]:
    return {kind.name: kind for kind in kinds}


ALGORITHMS = _by_name(
    *(MAMLOptions, FOMAMLOptions, ANILOptions, ReptileOptions),
    *(MetaSGDOptions, ProtoNetOptions, TSMDOptions),
)
"""What ``metalearn-tut train`` knows."""
FEDERATED = _by_name(MetaGaterOptions, PerFedAvgOptions, FedAvgOptions)
"""What ``metalearn-tut federate`` knows."""
