"""What a training run is, as a value: two runs with equal plans are one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metalearn_tut.checks import check_choice, check_count
from metalearn_tut.evaluation.accuracy import check_n_tasks
from metalearn_tut.files.content import described
from metalearn_tut.scoring import Metric, check_function
from metalearn_tut.tasks.sampler import TaskSampler

Aggregate = Callable[[Tensor], Tensor]


@runtime_checkable
class Memory(Protocol):
    """What an aggregate of task losses has if it remembers earlier steps."""

    def state_dict(self) -> dict[str, Any]:
        """All that its next call depends on, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; from ``{}`` begin anew."""


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """What :func:`meta_train` does, but for where it is kept; its arguments by name.

    Raises
    ------
    ValueError
        For a number out of range, an unknown word, or more validation tasks than there are.
    """

    sampler: TaskSampler
    steps: int
    tasks_per_step: int = 4
    aggregate: Aggregate = field(default_factory=lambda: torch.mean)
    clip: float | None = None
    validation: TaskSampler | None = None
    validate_every: int = 500
    validation_tasks: int = 100
    metric: Metric | None = None
    best: str = "highest"

    def __post_init__(self) -> None:
        for name in ("steps", "tasks_per_step", "validate_every", "validation_tasks"):
            (number,) = check_count(**{name: getattr(self, name)})
            object.__setattr__(self, name, number)
        check_choice("best", self.best, ("highest", "lowest"))
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be positive, got {self.clip}")
        check_function("metric", self.metric, optional=True)
        if self.validation is not None:
            check_n_tasks(self.validation, self.validation_tasks, "validation_tasks")

    def check_shared(self, world: int) -> None:
        """Refuse to share fewer tasks than there are processes."""
        for name in ("tasks_per_step", "validation_tasks"):
            if getattr(self, name) < world:
                raise ValueError(
                    f"{name}={getattr(self, name)} is fewer than the {world} processes"
                )

    def validates_after(self, done: int) -> bool:
        """Whether there is a validation after so many steps."""
        last = done == self.steps
        return self.validation is not None and (last or done % self.validate_every == 0)

    def settings(self) -> dict[str, Any]:
        """The same as JSON, by content (``asdict`` would copy the tasks' images)."""
        return {f.name: described(getattr(self, f.name)) for f in fields(self)}
