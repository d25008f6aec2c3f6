"""Two arms of a study on the same test tasks, over several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.evaluation.intervals import interval

# As criteria put it: part of what is on file, so not a word of it changes.
PAIRED = (
    "the paired interval over 600 test tasks (each task's difference being its mean over 3 seeds; "
    "95 %) "
)

# 97.5 % points of Student's t by degrees of freedom: 1.96 would be far too small for 3 seeds.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def seeds_interval(means: Sequence[float]) -> tuple[float, float]:
    """Mean over 2 to 10 seeds, and the half-width of its 95 % interval by Student's t.

    Examples
    --------
    >>> mean, half = seeds_interval([0.1, 0.2, 0.3])
    >>> round(mean, 3), round(half, 3)
    (0.2, 0.248)
    """
    if not 2 <= len(means) <= len(_STUDENT) + 1:
        raise ValueError(f"means must be of 2 to {len(_STUDENT) + 1} seeds, got {len(means)}")
    values = torch.tensor(means, dtype=torch.float64)
    half = _STUDENT[len(means) - 2] * values.std().item() / math.sqrt(len(means))
    return values.mean().item(), half


@dataclass(frozen=True)
class Difference:
    """How much better one arm is than another, on paired tasks.

    Parameters
    ----------
    mean : float
        Mean over tasks and seeds.
    over_tasks : float
        Half-width of the 95 % interval over tasks, each task's difference being its mean over
        the seeds: what other tasks would change, for these trainings.
    over_seeds : float or None
        Half-width of the 95 % interval over seeds (Student's t): what other trainings would
        change, for these tasks. None for one seed.
    seeds : list of float
        The mean of each seed.
    n_tasks : int
        Number of tasks.
    of : str, default "tasks"
        What they are, if not tasks.
    """

    mean: float
    over_tasks: float
    over_seeds: float | None
    seeds: list[float]
    n_tasks: int
    of: str = "tasks"

    @property
    def low(self) -> float:
        """Lower end of the interval over tasks."""
        return self.mean - self.over_tasks

    @property
    def high(self) -> float:
        """Upper end of the interval over tasks."""
        return self.mean + self.over_tasks

    def __str__(self) -> str:
        seeds = "" if self.over_seeds is None else f"; ± {self.over_seeds:.4f} over seeds"
        return f"{self.mean:+.4f} ± {self.over_tasks:.4f} over {self.n_tasks} {self.of}{seeds}"

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {name: value for name, value in asdict(self).items() if name != "of"}


def difference(a: Tensor, b: Tensor, of: str = "tasks") -> Difference:
    """The :class:`Difference` ``a - b`` of two arms.

    Parameters
    ----------
    a, b : Tensor [S, n]
        Accuracies on the same n tasks after training with each of the same S seeds.
    of : str, default "tasks"
        What they are of, if not of tasks.

    Examples
    --------
    >>> a = torch.tensor([[0.8, 0.9, 1.0], [0.9, 0.9, 0.9]])
    >>> print(difference(a, a - 0.1))
    +0.1000 ± 0.0000 over 3 tasks; ± 0.0000 over seeds
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            "difference needs accuracies [seeds, tasks] of the same seeds and tasks on both "
            f"sides, got shapes {list(a.shape)} and {list(b.shape)}"
        )
    paired = a.double() - b.double()
    mean, over_tasks = interval(paired.mean(0))
    seeds = paired.mean(1).tolist()
    over_seeds = seeds_interval(seeds)[1] if len(seeds) > 1 else None
    return Difference(mean, over_tasks, over_seeds, seeds, len(paired[0]), of)


def counts(accuracy: Tensor, queries: int) -> str:
    """How many of ``queries`` were right in each task: short and exact in a results file.

    Examples
    --------
    >>> counts(torch.tensor([0.96, 0.5]), queries=50), accuracies("48 25", queries=50)
    ('48 25', tensor([0.9600, 0.5000], dtype=torch.float64))
    """
    return " ".join(str(round(a * queries)) for a in accuracy.tolist())


def accuracies(text: str, queries: int) -> Tensor:
    """Back from :func:`counts`, in double precision ``[n]``."""
    return torch.tensor([int(c) for c in text.split()], dtype=torch.float64) / queries
