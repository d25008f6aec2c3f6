"""More classes from the same drawings: a thing whose color channels have changed places."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import torch

from metalearn_tut.checks import check_index, check_rate, check_seed
from metalearn_tut.tasks.sampler import TaskSampler, raw_draws, unit
from metalearn_tut.tasks.task import Task

_STREAM = 1001  # of draws: see raw_draws; the stream before is the poses'
_ORDERS = tuple(permutations(range(3)))


class Recolored(TaskSampler):
    """The tasks of a sampler of RGB images, some classes with their color channels reordered.

    A class of a task is recolored with chance ``rate``: then one of the six orders of the
    channels is drawn and holds for all of its images, in support and query set. A red apple may
    be blue, in every drawing of it, and color still tells classes apart. White, gray and black
    stay what they are.

    Parameters
    ----------
    sampler : TaskSampler
        Tasks of images ``[n, 3, H, W]``.
    rate : float
        Probability, 0 to 1, that a class is recolored.
    seed : int, default 0
        Names the draws, which belong to a task's index: task ``i`` is the same on every machine.

    Raises
    ------
    ValueError
        If ``rate`` is not in 0..1, ``seed`` is not an integer of at least 0, or a task's
        images do not have three channels.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> plain = tasks.emoji("train").sampler(ways=5, shots=1, queries=4)
    >>> task, recolored = plain[7], Recolored(plain, rate=1.0)[7]
    >>> bool((task.support_x.sum(1) == recolored.support_x.sum(1)).all())
    True
    """

    decided_by = ("sampler", "rate", "seed")

    def __init__(self, sampler: TaskSampler, rate: float, seed: int = 0) -> None:
        self.sampler, self.rate, self.seed = sampler, check_rate(rate), check_seed(seed)

    def __repr__(self) -> str:
        return f"Recolored({self.sampler!r}, rate={self.rate})"

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        task = self.sampler[index]
        if task.support_x.ndim != 4 or task.support_x.shape[1] != 3:
            shape = list(task.support_x.shape)
            raise ValueError(f"recoloring needs images [n, 3, H, W], the task has {shape}")
        ways = int(task.support_y.max()) + 1
        draws = iter(map(unit, raw_draws(self.seed, index, 2 * ways, _STREAM)))
        order = torch.tensor([_order(next(draws) < self.rate, next(draws)) for _ in range(ways)])
        return replace(
            task,
            support_x=_reordered(task.support_x, order[task.support_y]),
            query_x=_reordered(task.query_x, order[task.query_y]),
        )


def _order(recolored: bool, which: float) -> tuple[int, ...]:
    return _ORDERS[int(which * len(_ORDERS)) if recolored else 0]  # the first changes nothing


def _reordered(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Channels of ``[n, 3, H, W]`` as each row of ``order``, ``[n, 3]``, says."""
    return images[torch.arange(len(images))[:, None], order]
