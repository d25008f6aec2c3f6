"""Wrappers that make any list of tasks a mixed bag, and know which task is what.

Each is a :class:`TaskSampler` around others: task ``i`` is still the same task for
everyone, a task left alone is exactly the wrapped sampler's task ``i``, and tags say what
was done. Decisions come from streams of draws of their own, so they do not depend on which
classes a task has, even under the same seed. Two wrappers of one kind around each other
need different seeds (with the same one they pick the same tasks); a task is then noisy, or
an outlier, if either made it so, and ``component`` is the outer mixture's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.checks import check_choice, check_index, check_rate, check_seed
from metalearn_tut.tasks.sampler import TaskSampler, distinct, raw_draws, unit
from metalearn_tut.tasks.task import Task, TaskBatch

KINDS = ("permuted", "random")

# Streams of draws: see raw_draws. Attempts at a permutation take one more stream each.
_OUTLIER, _COMPONENT, _NOISE, _LABELS = 1, 2, 3, 4


class NoisyTasks(TaskSampler):
    """Some tasks teach wrong labels: their support labels are corrupted, the query's never.

    Parameters
    ----------
    sampler : TaskSampler
        Where tasks come from.
    rate : float
        Probability, 0 to 1, that a task is noisy. Tags say ``noisy=True`` or ``False``.
    kind : {"permuted", "random"}, default "permuted"
        ``"permuted"`` shuffles the support labels over the examples, uniformly among the
        shuffles that change at least one label; some examples may keep theirs. With one
        shot the task names its classes wrongly, with more it contradicts itself.
        ``"random"`` draws each support label anew from the task's labels 0..N-1: a class
        may lose all its examples, and by chance a label (or every label) stays right.
    seed : int, default 0
        Names the choice of noisy tasks and their noise.

    Raises
    ------
    ValueError
        If ``rate`` is not in 0..1, ``kind`` is unknown, all support labels of a task are
        equal (nothing to permute), or ``"random"`` is asked of real targets.

    Notes
    -----
    The task-level label noise of the robustness experiments: our reconstruction (a noisy
    task is corrupted as a whole), since the HeTRoM paper's own noise model is not known to us.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> source = tasks.from_arrays(torch.arange(30.0).reshape(30, 1), torch.arange(30) // 6)
    >>> noisy = NoisyTasks(source.sampler(ways=3, shots=1, queries=2), rate=0.3)
    >>> [noisy[i].tags["noisy"] for i in range(6)]
    [True, False, True, False, False, True]
    """

    decided_by = ("sampler", "rate", "kind", "seed")

    def __init__(
        self, sampler: TaskSampler, rate: float, kind: str = "permuted", seed: int = 0
    ) -> None:
        check_rate(rate)
        check_choice("kind", kind, KINDS)
        self.sampler, self.rate, self.kind, self.seed = sampler, rate, kind, check_seed(seed)
        self._corrupted(sampler[0], 0)  # refuse now what cannot be corrupted

    def __repr__(self) -> str:
        return f"NoisyTasks({self.sampler!r}, rate={self.rate}, {self.kind}, seed={self.seed})"

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        task = self.sampler[index]
        if _chance(self.seed, index, _NOISE) < self.rate:
            return self._corrupted(task, index)
        return _tagged(task, noisy=task.tags.get("noisy", False))

    def _corrupted(self, task: Task, index: int) -> Task:
        relabel = _permuted if self.kind == "permuted" else _random
        return _tagged(replace(task, support_y=relabel(task, self.seed, index)), noisy=True)


class WithOutliers(TaskSampler):
    """Some tasks come from another sampler: another data set, another range of waves.

    Parameters
    ----------
    sampler : TaskSampler
        Where ordinary tasks come from.
    outliers : TaskSampler
        Where outliers come from. Task 0 of both is drawn at construction, and must agree
        in the shapes and dtypes of all four tensors, so that batches can be stacked.
    rate : float
        Probability, 0 to 1, of an outlier. Tags say ``outlier=True`` or ``False``.
    seed : int, default 0
        Names the choice of outliers.

    Raises
    ------
    ValueError
        If ``rate`` is not in 0..1, or the tasks of the two samplers cannot share a batch.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> usual, far = tasks.sinusoid(), tasks.sinusoid(amplitude=(8.0, 10.0), seed=1)
    >>> mixed = WithOutliers(usual, far, rate=0.3)
    >>> all((t.tags["amplitude"] > 5) == t.tags["outlier"] for t in mixed.batch(0, 20))
    True
    """

    decided_by = ("sampler", "outliers", "rate", "seed")

    def __init__(
        self, sampler: TaskSampler, outliers: TaskSampler, rate: float, seed: int = 0
    ) -> None:
        check_rate(rate)
        self.seed = check_seed(seed)
        _check_alike([sampler, outliers])
        self.sampler, self.outliers, self.rate = sampler, outliers, rate

    def __repr__(self) -> str:
        return (
            f"WithOutliers({self.sampler!r}, {self.outliers!r}, rate={self.rate}, seed={self.seed})"
        )

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        if _chance(self.seed, index, _OUTLIER) < self.rate:
            return _tagged(self.outliers[index], outlier=True)
        task = self.sampler[index]
        return _tagged(task, outlier=task.tags.get("outlier", False))


class Mixture(TaskSampler):
    """Each task comes from one of several samplers: many easy ones, a few hard ones.

    Parameters
    ----------
    samplers : sequence of TaskSampler
        The components. Task 0 of each is drawn at construction, and must agree in the
        shapes and dtypes of all four tensors.
    weights : sequence of float
        Non-negative shares of the components, in any scale. The tag ``component`` is the
        position of the sampler that a task came from.
    seed : int, default 0
        Names the choice of components.

    Raises
    ------
    ValueError
        If there is not one weight per sampler, a weight is negative or not finite, all are
        zero, or the tasks cannot share a batch.

    Examples
    --------
    Nineteen flat waves for each steep one:

    >>> from metalearn_tut import tasks
    >>> easy, hard = (tasks.sinusoid(amplitude=a) for a in ((0.1, 1.05), (4.95, 5.0)))
    >>> mixed = Mixture([easy, hard], weights=[95, 5])
    >>> sum(mixed[i].tags["component"] for i in range(1000))
    40
    """

    decided_by = ("samplers", "weights", "seed")

    def __init__(
        self, samplers: Sequence[TaskSampler], weights: Sequence[float], seed: int = 0
    ) -> None:
        self.seed = check_seed(seed)
        if not samplers or len(weights) != len(samplers):
            raise ValueError(
                "Mixture needs one weight per sampler, at least one, "
                f"got {len(weights)} weights for {len(samplers)} samplers"
            )
        if not all(isfinite(w) and w >= 0 for w in weights) or not 0 < sum(weights) < inf:
            raise ValueError(f"weights must be finite, >= 0 and not all 0, got {list(weights)}")
        _check_alike(samplers)
        self.samplers, self.weights = tuple(samplers), tuple(weights)
        self._ends = list(accumulate(weights))

    def __repr__(self) -> str:
        return f"Mixture({list(self.samplers)!r}, weights={list(self.weights)}, seed={self.seed})"

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        point = _chance(self.seed, index, _COMPONENT) * self._ends[-1]
        last = bisect_left(self._ends, self._ends[-1])  # if rounding takes the point to the end
        # never one of weight 0: its piece is empty
        component = min(bisect_right(self._ends, point), last)
        return _tagged(self.samplers[component][index], component=component)


def _chance(seed: int, index: int, stream: int) -> float:
    """A number in [0, 1) that belongs to (seed, index, stream) alone."""
    return unit(raw_draws(seed, index, 1, stream)[0])


def _tagged(task: Task, **tags: Any) -> Task:
    return replace(task, tags={**task.tags, **tags})


def _permuted(task: Task, seed: int, index: int) -> Tensor:
    """A shuffle of the support labels, uniform among those that differ from them."""
    labels = task.support_y
    if bool((labels == labels[0]).all()):
        raise ValueError("kind='permuted' needs two different support labels in a task, got one")
    stream = _LABELS
    while True:
        order = distinct(raw_draws(seed, index, len(labels), stream), len(labels))
        if not torch.equal(labels[order], labels):
            return labels[order]
        stream += 1


def _random(task: Task, seed: int, index: int) -> Tensor:
    """Support labels drawn uniformly from the task's 0..N-1, whatever they were."""
    if task.support_y.is_floating_point():
        raise ValueError(
            f"kind='random' needs integer labels, got {task.support_y.dtype}; use 'permuted'"
        )
    ways = 1 + int(torch.cat([task.support_y, task.query_y]).max())
    draws = raw_draws(seed, index, len(task.support_y), _LABELS)
    return torch.tensor([d % ways for d in draws], dtype=task.support_y.dtype)


def _check_alike(samplers: Sequence[TaskSampler]) -> None:
    """Refuse samplers whose tasks cannot share a batch, by their task 0."""
    try:
        TaskBatch.stack([sampler[0] for sampler in samplers])
    except ValueError as error:
        raise ValueError(f"task 0 of the samplers cannot share a batch: {error}") from error
