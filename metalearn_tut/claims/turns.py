"""Trainings that share a GPU from one process: threads of which one works at a time.

What a thread has asked the GPU for goes on while the others ask, each in a stream of its own; so
small networks fill a GPU that one alone would leave half idle. As a thread gives way only where
it says so, between two steps, nothing that PyTorch keeps for the whole process is in its way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from metalearn_tut.claims.records import check_clean, record_of
from metalearn_tut.claims.runner import attempt
from metalearn_tut.claims.study import Job


class Turns:
    """A lock that is given to those who wait in the order in which they came.

    Examples
    --------
    >>> turns = Turns()
    >>> with turns:
    ...     turns.pass_on()  # nobody waits, so one's own turn goes on
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._holder: int | None = None

    def __enter__(self) -> None:
        called = threading.Lock()
        called.acquire()
        with self._guard:
            if self._holder is None:
                called.release()
                self._holder = 0
            else:
                self._waiting.append(called)
        called.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._holder = 0 if self._waiting else None
            if self._waiting:
                self._waiting.popleft().release()

    def pass_on(self) -> None:
        """Let the others have a turn each; nothing for a thread that is not in its own."""
        if self._holder == threading.get_ident():
            self.__exit__()
            self.__enter__()


TURNS = Turns()


def run_in_turns(
    jobs: Sequence[Job],
    folder: Path,
    records: Path,
    needs: Callable[[Job], set[str]],
    *,
    at_once: int = 1,
    clean: bool = True,
) -> dict[str, str]:
    """Do all jobs that have no record in ``records``, none before those that it needs.

    Parameters
    ----------
    jobs : sequence of Job
        The first of those that can begin is the next to. One that takes turns calls
        ``TURNS.pass_on()`` between its steps.
    folder, records, clean
        As for :func:`~metalearn_tut.claims.runner.run_jobs`.
    needs : callable
        ``job -> names`` of the jobs that it needs, as their configurations call them.
    at_once : int, default 1
        Threads.

    Returns
    -------
    dict
        Of the jobs without a record: why.
    """
    if clean:
        check_clean()
    waiting = [job for job in jobs if not record_of(job, records)]
    missing = {job.name: "it needs another one" for job in waiting}
    done = {job.config["name"] for job in jobs if job not in waiting}
    running: dict[Future[str | None], Job] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            able = [job for job in waiting if needs(job) <= done]
            for job in able[: at_once - len(running)]:
                running[pool.submit(_in_turn, job, folder, records, clean)] = job
                waiting.remove(job)
            if not running:
                return missing
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, problem = running.pop(future), future.result()
                missing.pop(job.name)
                if problem:
                    missing[job.name] = problem
                else:
                    done.add(job.config["name"])
                print(f"{job.name}: {problem or 'done'}", flush=True)


def _in_turn(job: Job, folder: Path, records: Path, clean: bool) -> str | None:
    with TURNS:
        return attempt(job, folder, records, clean)
