"""The arms of a study: trainings named ``ARM-SEED`` that counted right answers task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.claims.statistics import Difference, accuracies, difference
from metalearn_tut.claims.study import Results

SEEDS = (0, 1, 2)
WAYS, QUERIES = 5, 50  # classes of a few-shot task, and query images of a test task


@dataclass(frozen=True)
class Arms:
    """Accuracies of arms and their paired differences.

    Parameters
    ----------
    results : Results
        Of the jobs; an arm's values have, by split,
        :func:`~metalearn_tut.claims.statistics.correct_counts`.
    seeds : sequence of int, default (0, 1, 2)
        All that an arm may have been run with; it must have been with the first.
    queries : int, default 50
        Query images of a test task.
    of : str, default "tasks"
        What was counted in, in words.
    """

    results: Results
    seeds: Sequence[int] = SEEDS
    queries: int = QUERIES
    of: str = "tasks"

    def values(self, arm: str) -> list[dict[str, Any]]:
        """The values of an arm, for each seed there is.

        Raises
        ------
        Undecided
            If the first seed's are not there.
        """
        first, results = self.seeds[0], self.results
        return [results[f"{arm}-{s}"] for s in self.seeds if s == first or f"{arm}-{s}" in results]

    def present(self, arms: Sequence[str]) -> list[str]:
        """Those of these arms that were run."""
        return [arm for arm in arms if f"{arm}-{self.seeds[0]}" in self.results]

    def accuracy(self, arm: str, split: str = "test") -> Tensor:
        """``[seeds, tasks]``."""
        return torch.stack([accuracies(v[split], self.queries) for v in self.values(arm)])

    def mean(self, arm: str, split: str = "test") -> float:
        """Over all tasks and seeds."""
        return self.accuracy(arm, split).mean().item()

    def minus(self, a: str, b: str, split: str = "test", of_b: str | None = None) -> Difference:
        """Accuracy of arm ``a`` minus that of arm ``b``, on the same tasks.

        ``of_b`` is what ``b`` calls the split, if it has another name for it.
        """
        return difference(self.accuracy(a, split), self.accuracy(b, of_b or split), self.of)

    def best(self, arms: Sequence[str], split: str = "validation") -> tuple[str, dict[str, float]]:
        """The arm with the highest accuracy on validation tasks, and all accuracies there."""
        found = {arm: self.mean(arm, split) for arm in arms}
        return max(found, key=found.__getitem__), found
