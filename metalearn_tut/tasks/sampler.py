"""Random access to an endless list of tasks: task ``i`` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from metalearn_tut.checks import as_integer, check_count, check_index, check_seed, whole_number
from metalearn_tut.files.content import described, without_addresses
from metalearn_tut.tasks.task import Task, TaskBatch, tasks_hash

if TYPE_CHECKING:
    from metalearn_tut.tasks.source import ClassSource


def raw_draws(seed: int, index: int, n: int, stream: int = 0) -> list[int]:
    """``n`` 64-bit integers that belong to (seed, index, stream) alone.

    They come from the Philox counter generator's raw output, which NumPy promises not
    to change between versions (its ``Generator`` methods carry no such promise). Different
    streams of one seed are independent: whether a task is corrupted must not depend on
    which classes it drew. The key is made ``uint64`` here, because NumPy would pass a
    list that holds a number above 2**63 through floats and merge such seeds.
    """
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Philox(key=key, counter=[0, 0, 0, stream]).random_raw(n).tolist()


def unit(draw: int) -> float:
    """A 64-bit draw as a number in [0, 1): its upper 53 bits, all that a float holds."""
    return (draw >> 11) * 2.0**-53


def distinct(draws: list[int], n: int) -> list[int]:
    """``len(draws)`` different numbers below ``n``: the head of a Fisher-Yates shuffle.

    The modulo's bias is below n / 2**64, which no experiment can see.
    """
    moved: dict[int, int] = {}
    chosen = []
    for i, draw in enumerate(draws):
        j = i + draw % (n - i)
        chosen.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return chosen


_OF_TASKS = ("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


class TaskSampler:
    """An endless list of tasks with random access; subclasses say what task ``i`` is.

    Nothing is stored between calls, so tasks can be drawn in any order, from any
    process, and a run resumed at step ``s`` sees exactly the tasks it would have seen.
    A subclass names in ``decided_by`` the attributes that decide its tasks, all of them:
    :meth:`settings` is made of these, and tells whether two samplers have the same tasks.
    """

    decided_by: ClassVar[tuple[str, ...]]

    def __getitem__(self, index: int) -> Task:
        raise TypeError(f"{type(self).__name__} must define __getitem__(index) -> Task")

    def __iter__(self) -> Iterator[Task]:
        for index in count():
            try:
                task = self[index]
            except IndexError:  # of a list that ends
                return
            yield task

    def batch(self, step: int, tasks_per_step: int) -> TaskBatch:
        """Tasks ``step·tasks_per_step`` up to the next step's first, stacked.

        Parameters
        ----------
        step : int
            Which batch, from 0.
        tasks_per_step : int
            Number of tasks T, at least 1.
        """
        (tasks,) = check_count(tasks_per_step=tasks_per_step)
        if (number := as_integer(step)) is None:
            raise TypeError(f"step must be an integer, got {step!r}")
        if number < 0:
            raise IndexError(f"step must be >= 0, got {step}")
        return self.tasks(range(number * tasks, (number + 1) * tasks))

    def tasks(self, indices: Iterable[int]) -> TaskBatch:
        """The tasks of these indices, stacked."""
        return TaskBatch.stack([self[i] for i in indices])

    def loader(
        self, tasks_per_step: int, steps: int | None = None, start: int = 0, **options: Any
    ) -> DataLoader[TaskBatch]:
        """A PyTorch ``DataLoader`` of the batches of steps ``start``, ``start + 1``, and so on.

        Each is what :meth:`batch` gives, bit for bit, however many workers draw them. A run that
        was stopped before step s goes on with the same call and ``start=s``.

        Parameters
        ----------
        tasks_per_step : int
            Number of tasks T of a batch, at least 1.
        steps, start : int, optional
            From ``start``, 0 by default, up to ``steps``, which is left out; by default no end.
        **options
            ``num_workers``, ``pin_memory`` and others of :class:`torch.utils.data.DataLoader`.

        Raises
        ------
        ValueError
            If a count is none, ``start`` is beyond ``steps``, or an option would change the
            batches or their order, as ``shuffle`` does.

        Examples
        --------
        >>> from metalearn_tut import tasks
        >>> loader = tasks.sinusoid().loader(tasks_per_step=4, steps=10)
        >>> [len(batch) for batch in loader][:3], len(loader)
        ([4, 4, 4], 10)
        """
        check_count(tasks_per_step=tasks_per_step)
        for name in _OF_TASKS:
            if options.pop(name, None):
                raise ValueError(f"{name}: batches are those of the steps, in their order")
        first = whole_number("start", start)
        # a loader draws a seed for its workers: from the global generator, it would change a run
        options = {"generator": torch.Generator(), **options}
        numbers = (
            _From(first) if steps is None else range(first, whole_number("steps", steps, first))
        )
        return DataLoader(
            _Batches(self, tasks_per_step), batch_size=None, sampler=numbers, **options
        )

    def settings(self) -> dict[str, Any]:
        """All that decides the tasks, as JSON: two samplers with equal settings have the same.

        Data count by their content (:meth:`ClassSource.fingerprint`), not by their name, so
        that a run is resumed with what it was begun with, and nothing else.

        Returns
        -------
        dict
            ``sampler``, the name of the class, and every attribute of ``decided_by``. A class
            without a ``decided_by`` *of its own* is known by its ``repr``, by its attributes
            that have settings themselves, and by ``first_tasks``, a hash of its tasks 0 to 2:
            what shows in none of these is not noticed.

        Examples
        --------
        >>> from metalearn_tut import tasks
        >>> tasks.Pool(tasks.sinusoid(shots=5), size=100).settings()["size"]
        100
        """
        own = type(self)
        if "decided_by" in vars(own):
            found = {name: described(getattr(self, name)) for name in own.decided_by}
            return {"sampler": own.__name__, **found}
        parts = {n: v.settings() for n, v in vars(self).items() if hasattr(v, "settings")}
        first = tasks_hash(islice(self, 3))
        text = without_addresses(repr(self))
        return {"sampler": own.__name__, "repr": text, **parts, "first_tasks": first}


@dataclass(frozen=True)
class _Batches(Dataset[TaskBatch]):
    """The batches of a sampler by their step."""

    sampler: TaskSampler
    tasks_per_step: int

    def __getitem__(self, step: int) -> TaskBatch:
        return self.sampler.batch(step, self.tasks_per_step)


@dataclass(frozen=True)
class _From:
    """The steps from the first on, anew for each who asks."""

    first: int

    def __iter__(self) -> Iterator[int]:
        return count(self.first)


class EpisodeSampler(TaskSampler):
    """N-way K-shot tasks from a source of classes.

    Task ``i`` picks ``ways`` different classes in random order (so labels carry no
    meaning across tasks) and, in each, ``shots + queries`` different images: support
    and query never share one.

    Parameters
    ----------
    source : ClassSource
        Classes with their images.
    ways, shots, queries : int
        Classes N, support images K per class, query images Q per class.
    seed : int, default 0
        Names the list of tasks; the same seed gives the same tasks everywhere.

    Raises
    ------
    ValueError
        If the source has too few classes, or a class too few images; the message
        names the class and its count.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> x, y = torch.arange(60.0).reshape(30, 2), torch.arange(30) // 6
    >>> sampler = tasks.from_arrays(x, y).sampler(ways=3, shots=1, queries=4, seed=0)
    >>> sampler[7].support_x.shape, sampler[7].query_x.shape
    (torch.Size([3, 2]), torch.Size([12, 2]))
    >>> bool((sampler[7].query_x == sampler[7].query_x).all())
    True
    """

    decided_by = ("source", "ways", "shots", "queries", "seed")

    def __init__(
        self, source: ClassSource, ways: int, shots: int, queries: int, seed: int = 0
    ) -> None:
        ways, shots, queries = check_count(ways=ways, shots=shots, queries=queries)
        self.seed = check_seed(seed)
        source.check_enough(ways, shots, queries)
        self.source = source
        self.ways, self.shots, self.queries = ways, shots, queries
        self._pools = source.class_pools(ways)

    def __repr__(self) -> str:
        rotated = ", rotated" if self.source.turns > 1 else ""
        within = ", within groups" if self.source.within_group else ""
        return (
            f"EpisodeSampler({self.source.name}{rotated}{within}, "
            f"{self.ways}-way {self.shots}-shot, {self.queries} queries per class, "
            f"seed={self.seed})"
        )

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        ways, per_class = self.ways, self.shots + self.queries
        draws = raw_draws(self.seed, index, 1 + ways * (1 + per_class))
        pool = self._pools[draws[0] % len(self._pools)]
        classes = [pool[j] for j in distinct(draws[1 : 1 + ways], len(pool))]
        support, query = [], []
        for label, c in enumerate(classes):
            start = 1 + ways + label * per_class
            rows = self.source.choose(c, draws[start : start + per_class], self.shots)
            images = self.source.images_of(c, rows)
            support.append(images[: self.shots])
            query.append(images[self.shots :])
        labels = torch.arange(ways)
        return Task(
            torch.from_numpy(np.concatenate(support)),
            labels.repeat_interleave(self.shots),
            torch.from_numpy(np.concatenate(query)),
            labels.repeat_interleave(self.queries),
            tags={"index": index, **self.source.describe(classes)},
        )


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
