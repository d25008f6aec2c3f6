"""A finite pool of tasks, cycled through without end."""

from __future__ import annotations

from metalearn_tut.checks import check_count, check_index
from metalearn_tut.tasks.sampler import TaskSampler
from metalearn_tut.tasks.task import Task


class Pool(TaskSampler):
    """The first ``size`` tasks of a sampler, over and over: task ``i`` is ``sampler[i % size]``.

    Parameters
    ----------
    sampler : TaskSampler
        Where the tasks come from.
    size : int
        How many there are, at least 1.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> pool = Pool(tasks.sinusoid(), size=100)
    >>> bool((pool[307].query_x == pool[7].query_x).all())
    True
    """

    decided_by = ("sampler", "size")

    def __init__(self, sampler: TaskSampler, size: int) -> None:
        (self.size,) = check_count(size=size)
        self.sampler = sampler

    def __repr__(self) -> str:
        return f"Pool({self.sampler!r}, size={self.size})"

    def __getitem__(self, index: int) -> Task:
        return self.sampler[check_index(index) % self.size]
