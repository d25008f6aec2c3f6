"""What the numbers of many tasks say: their mean, its interval, and paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def interval(values: Tensor) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, ``1.96 · sd / sqrt(n)``, sd with n - 1.

    Examples
    --------
    >>> import torch
    >>> mean, half = interval(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> round(mean, 3), round(half, 3)
    (0.5, 0.566)
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"values must be a vector of at least one number, got shape {list(values.shape)}"
        )
    values = values.double()
    half = 1.96 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return values.mean().item(), half


@dataclass(frozen=True)
class Evaluation:
    """Per-task results of one learner on one list of tasks.

    Parameters
    ----------
    values : Tensor [n]
        One number per task, in task order: accuracy, unless another metric was given.
    sampler : str
        Which tasks.
    protocol : str
        How query images were normalized; numbers of different protocols answer different
        questions.
    steps : int or None
        Inner steps taken, if the learner takes any.
    metric : str, default "accuracy"
        What the values are.
    not_finite : int, default 0
        Number of tasks whose outputs held NaN or infinity: a diverged learner's. Their rows
        with NaN count as wrong in an accuracy.
    measure : str, default ""
        Of a metric that was given, a hash of what it does: two may have one name.
    """

    values: Tensor
    sampler: str
    protocol: str
    steps: int | None = None
    metric: str = "accuracy"
    not_finite: int = 0
    measure: str = field(default="", repr=False)

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return interval(self.values)[0]

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % interval over tasks."""
        return interval(self.values)[1]

    def __str__(self) -> str:
        name = "" if self.metric == "accuracy" else f"{self.metric} "
        steps = "" if self.steps is None else f", {self.steps} inner steps"
        return (
            f"{name}{self.mean:.4f} ± {self.half_width:.4f} "
            f"({len(self.values)} tasks{steps}; {self.protocol}{self._bad()})"
        )

    def _bad(self) -> str:
        return f"; outputs of {self.not_finite} tasks are not finite" if self.not_finite else ""

    def to_dict(self, values: bool = False) -> dict[str, Any]:
        """What a results file holds, ready for JSON.

        Parameters
        ----------
        values : bool, default False
            Include the number of every task.
        """
        summary = {
            "metric": self.metric,
            "mean": self.mean,
            "half_width": self.half_width,
            "n_tasks": len(self.values),
            "steps": self.steps,
            "protocol": self.protocol,
            "sampler": self.sampler,
        }
        if self.not_finite:
            summary["not_finite"] = self.not_finite
        return {**summary, "values": self.values.tolist()} if values else summary


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float]:
    """Mean of ``a - b`` task by task, and the half-width of its 95 % interval.

    Raises
    ------
    ValueError
        If the two were not measured by one metric on the same tasks.
    """
    _check_same("the same tasks", _tasks(a), _tasks(b))
    _check_same("one metric", a.metric, b.metric)
    _check_same("one metric", f"{a.metric} {a.measure}", f"{b.metric} {b.measure}")
    return interval(a.values.double() - b.values.double())


def _tasks(result: Evaluation) -> str:
    return f"{len(result.values)} of {result.sampler}"


def _check_same(what: str, a: str, b: str) -> None:
    if a != b:
        raise ValueError(f"paired_difference needs {what} on both sides, got {a} and {b}")
