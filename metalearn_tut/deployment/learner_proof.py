"""A file that learns proves itself before it is written: it learns what its learner does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.learners.learner import Learner
from metalearn_tut.tasks.task import as_float

Answer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(support_x, support_y, query_x) -> logits."""
TOLERANCE, MOST = 1e-4, 1e-2
"""Largest difference of logits, relative to the largest of them; and where rounding is larger."""
SETS, _NUDGES, _BITS = 10, 8, 16  # tries, and last digits, of what rounding is worth


@dataclass(frozen=True)
class Proof:
    """Random tasks on which a file has to answer as its learner does.

    Parameters
    ----------
    learner : Learner
    shape : sequence of int
        Of one input.
    ways, shots : int
        Number of classes, and the most images of one.
    options : mapping
        Of ``learner.adapt``.
    uint8 : bool
        Whether images are ``uint8``.
    seed : int
        Names the tasks.
    """

    learner: Learner
    shape: Sequence[int]
    ways: int
    shots: int
    options: Mapping[str, Any]
    uint8: bool
    seed: int

    def check(self) -> None:
        """Refuse a learner that does not fit these tasks, or does not learn from them.

        Raises
        ------
        ValueError
            In the words of the learner, if it refuses them; or naming the logits it gives.
        RuntimeError
            If it gives the same logits whatever the labels are.
        """
        x, y, query = self.tasks[0]
        try:
            logits, other = (self.expected(x, labels, query) for labels in (y, self._moved(y)))
        except (TypeError, ValueError, RuntimeError) as error:
            steps = "".join(f", {name}={value}" for name, value in self.options.items())
            raise ValueError(
                f"{type(self.learner).__name__} cannot adapt to inputs of shape {self.shape} in "
                f"{self.ways} classes{steps}: {error}"
            ) from error
        if logits.shape != (len(query), self.ways):
            raise ValueError(
                f"{type(self.learner).__name__} must give logits [Q, {self.ways}], one for each "
                f"class, got {list(logits.shape)} for {len(query)} queries"
            )
        if torch.equal(logits, other):
            raise RuntimeError(
                f"{type(self.learner).__name__} gives the same logits whatever the labels are: it "
                "does not learn; of a network alone export_network makes a file"
            )

    def _moved(self, labels: Tensor) -> Tensor:
        return (labels + 1) % self.ways

    @property
    def tasks(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Support inputs, labels in any order, and queries; no two sets of the same numbers.

        The first has one image of each class and one query; classes of later ones differ in
        their number of images, up to ``shots``.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return [self._task(i, generator) for i in range(SETS)]

    def _task(self, i: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        most = 1 + i % self.shots
        counts = torch.randint(1, most + 1, (self.ways,), generator=generator)
        counts[i % self.ways] = most
        labels = torch.arange(self.ways).repeat_interleave(counts)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        return self._images(len(labels), generator), labels, self._images(1 + i % 4, generator)

    def _images(self, rows: int, generator: torch.Generator) -> Tensor:
        pixels = torch.randint(256, (rows, *self.shape), generator=generator, dtype=torch.uint8)
        return pixels if self.uint8 else pixels / 255

    def expected(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """What the learner answers."""
        return self.learner.adapt(support_x, support_y, **self.options)(query_x)

    def difference(self, answer: Answer) -> float:
        """The largest difference found, as a share of the largest logit.

        Raises
        ------
        RuntimeError
            If it is above 1e-4 for a task (and above what rounding makes of the learner's own
            answer), or if another support set does not change the answer.
        """
        found = [self._difference(answer, task) for task in self.tasks]
        x, y, query = self.tasks[0]
        if torch.equal(answer(x, y, query), answer(x, self._moved(y), query)):
            raise RuntimeError(
                "the file gives the same logits for another support set: no file was written"
            )
        return max(found)

    def _difference(self, answer: Answer, task: tuple[Tensor, Tensor, Tensor]) -> float:
        expected, found = self.expected(*task), answer(*task)
        difference = (found - expected).abs().max() / expected.abs().max()
        if not difference <= TOLERANCE and not difference <= self._rounding(task, expected):
            raise RuntimeError(
                f"onnxruntime's logits for {len(task[0])} support images and {len(task[2])} "
                f"queries differ from the learner's by {difference:.1e} of the largest: no file "
                "was written"
            )
        return difference.item()

    def _rounding(self, task: tuple[Tensor, Tensor, Tensor], expected: Tensor) -> float:
        """Four times what the last four bits of the pixels change of the learner's own logits.

        A deep network that takes steps with large gradients answers otherwise by some 1e-4 in
        float32 and in float64, and so does any where two numbers in a window of a pool nearly
        tie, after as many roundings as there are on the way to it; no file can be closer to it.
        More than 1e-2 proves nothing.
        """
        x, y, query = as_float(task[0]), task[1], as_float(task[2])
        generator, eps = torch.Generator().manual_seed(self.seed), torch.finfo(x.dtype).eps
        changes = []
        for _ in range(_NUDGES):
            signs = torch.randint(2, x.shape, generator=generator) * 2 - 1
            nudged = self.expected(x * (1 + _BITS * eps * signs), y, query)
            changes.append((nudged - expected).abs().max() / expected.abs().max())
        return min(4 * max(changes).item(), MOST)
