"""What a training run records."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from metalearn_tut.evaluation.intervals import interval


@dataclass
class History:
    """What training recorded: per step the mean loss and accuracy, per check the validation.

    ``skipped`` lists the steps in which no task had a weight, so that nothing was changed.
    ``lowest`` is whether a lower validation is a better one, as of an error.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    lowest: bool = False

    def trained(self, losses: Tensor, accuracy: Tensor | None) -> None:
        """Record one step: losses ``[T]`` and accuracies ``[T]`` of its tasks."""
        self.loss.append(losses.mean().item())
        if accuracy is not None:
            self.accuracy.append(accuracy.mean().item())

    def validated(self, step: int, values: Tensor) -> bool:
        """Record a validation after ``step`` steps; True if its mean is the best so far."""
        mean, half_width = interval(values)
        improved = all(self._rank(mean) > self._rank(entry["mean"]) for entry in self.validation)
        self.validation.append({"step": step, "mean": mean, "half_width": half_width})
        return improved

    def recent(self, window: int = 100) -> dict[str, str]:
        """Means over the last steps, for a progress bar."""
        series = {"loss": self.loss[-window:], "accuracy": self.accuracy[-window:]}
        return {name: f"{sum(v) / len(v):.3f}" for name, v in series.items() if v}

    def best(self) -> dict[str, float]:
        """The first validation entry with the best mean: step, mean and half-width."""
        if not self.validation:
            raise ValueError("this run was not validated: pass validation= to meta_train")
        return max(self.validation, key=lambda entry: self._rank(entry["mean"]))

    def _rank(self, mean: float) -> float:
        """The higher the better; what is no number is worse than any."""
        return -math.inf if math.isnan(mean) else -mean if self.lowest else mean
