"""Sine waves to regress: the family on which MAML was first shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from metalearn_tut.checks import check_count, check_index, check_seed
from metalearn_tut.tasks.sampler import TaskSampler, raw_draws, unit
from metalearn_tut.tasks.task import Task

Interval = tuple[float, float]


def sinusoid(
    shots: int = 10,
    queries: int = 10,
    *,
    seed: int = 0,
    amplitude: Interval = (0.1, 5.0),
    phase: Interval = (0.0, math.pi),
    x_range: Interval = (-5.0, 5.0),
) -> SinusoidSampler:
    """Regression tasks: each is one sine wave, seen at a few points.

    ``y = A · sin(x - b)`` with ``A`` uniform in ``amplitude``, ``b`` in ``phase`` and every
    ``x`` in ``x_range``; inputs and targets are ``float32 [shots, 1]`` and ``[queries, 1]``,
    and tags name ``amplitude`` and ``phase``.

    The defaults are those of Finn et al. 2017, *Model-Agnostic Meta-Learning*, section 5.1.
    The paper gives the ranges but not the sign of the phase; subtracting it follows the
    authors' code. Adding it gives another family: over a range of pi the two do not coincide.

    Parameters
    ----------
    shots, queries : int, default 10
        Support and query points of a task.
    seed : int, default 0
        Names the list of tasks.
    amplitude, phase, x_range : (low, high)
        Intervals to draw from; ``low == high`` fixes the value. Phase is in radians.

    Raises
    ------
    ValueError
        If a count is below 1, or an interval is not finite with ``low <= high``.

    Examples
    --------
    >>> task = sinusoid(shots=5)[3]
    >>> task.support_x.shape, task.query_y.shape
    (torch.Size([5, 1]), torch.Size([10, 1]))
    >>> wave = task.tags["amplitude"] * torch.sin(task.query_x - task.tags["phase"])
    >>> torch.allclose(task.query_y, wave, atol=1e-5)
    True
    """
    return SinusoidSampler(shots, queries, seed, amplitude, phase, x_range)


@dataclass(frozen=True)
class SinusoidSampler(TaskSampler):
    """The tasks that :func:`sinusoid` describes."""

    decided_by = ("shots", "queries", "seed", "amplitude", "phase", "x_range")

    shots: int
    queries: int
    seed: int
    amplitude: Interval
    phase: Interval
    x_range: Interval

    def __post_init__(self) -> None:
        shots, queries = check_count(shots=self.shots, queries=self.queries)
        counts = {"shots": shots, "queries": queries, "seed": check_seed(self.seed)}
        for name, value in counts.items():  # as Python's integers, whatever was given
            object.__setattr__(self, name, value)
        for name in ("amplitude", "phase", "x_range"):
            given, most = getattr(self, name), torch.finfo(torch.float32).max
            try:
                low, high = given
                fits = -most <= low <= high <= most
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise ValueError(f"{name} must be (low, high), finite and ordered, got {given}")

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        draws = map(unit, raw_draws(self.seed, index, 2 + self.shots + self.queries))
        a, b = between(self.amplitude, next(draws)), between(self.phase, next(draws))
        x = torch.tensor([[between(self.x_range, u)] for u in draws], dtype=torch.float32)
        # The exact wave at the float32 points that a network is given.
        y = torch.tensor([[a * math.sin(v - b)] for v in x.flatten().tolist()])
        tags = {"index": index, "amplitude": a, "phase": b}
        k = self.shots
        return Task(x[:k], y[:k], x[k:], y[k:], tags)


def between(interval: Interval, u: float) -> float:
    """The point of ``interval`` at the fraction ``u``."""
    low, high = interval
    return low + (high - low) * u
