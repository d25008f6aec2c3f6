"""Independent tasks on several cores: Python threads of this process, results as of one thread.

PyTorch lets go of Python's lock while it computes, so that two threads work on two tasks. Each task
is a function of tensors (a learner changes no network in place), and results are taken in the
tasks' order: they are bitwise those of one thread after another.
"""

from __future__ import annotations

import contextvars
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from metalearn_tut.checks import check_count

T, R = TypeVar("T"), TypeVar("R")
_USUAL = 4  # tasks at a time, at most, unless told: each has its activations in memory


class _Crew:
    """So many tasks at a time; one, as soon as a task was seen to draw random numbers.

    The generators are the process's own: who draws first would depend on the clock.
    """

    def __init__(self, size: int) -> None:
        self.size, self.tried = size, False


_crew: ContextVar[_Crew | None] = ContextVar("crew", default=None)
_apart: ContextVar[bool] = ContextVar("apart", default=False)


def usual_workers(tasks: int) -> int:
    """How many of so many tasks are worked on at a time: one for each of PyTorch's threads, to 4.

    Whole tasks share out better than the insides of small operations; more than 4 would want
    more memory than anybody expects.
    """
    return max(1, min(torch.get_num_threads(), tasks, _USUAL))


def workers_of(learner: Any, count: int | None, tasks: int) -> AbstractContextManager[None]:
    """:func:`workers` as a user asks for them; by default the usual number, or one.

    One where two threads cannot use a learner, as far as its class says (``in_threads``; what a
    subclass has changed nobody knows, and it has to say so itself), or gain nothing, on a GPU.

    Raises
    ------
    ValueError
        If ``count`` is not a whole number of at least 1, or more than one on a GPU.
    """
    on_gpu = any(p.is_cuda for p in getattr(learner, "parameters", tuple)())
    if count is None:
        kind = type(getattr(learner, "unwatched", learner))
        count = usual_workers(tasks) if vars(kind).get("in_threads") and not on_gpu else 1
    (count,) = check_count(workers=count)
    if count > 1 and on_gpu:
        raise ValueError(
            f"workers={count} are threads of a CPU, and the learner is on a GPU: there "
            "engine='vectorised' computes all tasks at once"
        )
    return workers(count)


@contextmanager
def workers(count: int) -> Iterator[None]:
    """Inside, :func:`each` does so many tasks at a time."""
    token = _crew.set(_Crew(count))
    try:
        yield
    finally:
        _crew.reset(token)


def each(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(function, items)``, several at a time where :func:`workers` allows it.

    The first item of all is done alone, and if it draws random numbers, so are all others. Each
    thread has its share of PyTorch's threads for the inside of an operation.

    Raises
    ------
    Exception
        Of the first item that fails, when no other is being worked on any more.

    Examples
    --------
    >>> with workers(2):
    ...     print(list(each(lambda x: x * x, range(5))))
    [0, 1, 4, 9, 16]
    """
    crew = _crew.get()
    if crew is None or crew.size == 1 or _apart.get() or not _plain():
        yield from map(function, items)
        return
    items = deque(items)
    if items and not crew.tried:
        crew.tried, before = True, _generators()
        yield function(items.popleft())
        crew.size = crew.size if _generators() == before else 1
    if crew.size > 1 and len(items) > 1:
        before = _generators()
        results = _at_a_time(function, items, min(crew.size, len(items)))
        if _generators() == before:
            yield from results
            return
        crew.size = 1  # it has begun to draw: again, one after another
        _restore(before)
    yield from map(function, items)


def in_threads() -> bool:
    """Whether other tasks are being worked on beside this one.

    Then nobody may seed a generator, or put one back: if any draws, all tasks are done once more.
    """
    return _apart.get()


def _at_a_time(function: Callable[[T], R], items: Iterable[T], size: int) -> Sequence[R]:
    """All results, from this thread and ``size - 1`` others."""
    items = list(items)
    results: list[Any] = [None] * len(items)
    todo, failed, grad = deque(range(len(items))), {}, torch.is_grad_enabled()

    def work() -> None:
        _apart.set(True)
        while todo:
            try:
                i = todo.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                with torch.set_grad_enabled(grad):
                    results[i] = function(items[i])
            except Exception as error:
                failed[i] = error
                todo.clear()

    before = torch.get_num_threads()
    threads = max(1, before // size)
    pool = _pool(os.getpid(), size - 1, threads)
    torch.set_num_threads(threads)
    futures = [pool.submit(contextvars.copy_context().run, work) for _ in range(size - 1)]
    try:
        contextvars.copy_context().run(work)
    finally:
        todo.clear()  # after Ctrl-C
        wait(futures)
        torch.set_num_threads(before)
    if failed:
        raise failed[min(failed)]
    return results


@cache
def _pool(process: int, helpers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay, each with the memory that it has had; those of a fork are its own."""
    return ThreadPoolExecutor(
        helpers, "tasks", initializer=torch.set_num_threads, initargs=(threads,)
    )


def _plain() -> bool:
    """Whether this thread computes as any other would."""
    try:
        autocast = torch.is_autocast_enabled("cpu")
    except TypeError:  # PyTorch before 2.4
        autocast = torch.is_autocast_cpu_enabled()
    return not autocast and not torch.is_inference_mode_enabled()


def _generators() -> tuple[Any, ...]:
    """Where the process's random number generators stand."""
    name, key, *place = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (name, key.tobytes(), *place), torch.get_rng_state().numpy().tobytes()


def _restore(generators: tuple[Any, ...]) -> None:
    of_python, (name, key, *place), of_torch = generators
    random.setstate(of_python)
    np.random.set_state((name, np.frombuffer(key, np.uint32), *place))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(of_torch), dtype=torch.uint8))
