"""Run jobs in processes of their own; what is done stays done, whatever interrupts it.

A job that has ended is one JSON file, written whole by the process that did it. A job that was
cut short finds its checkpoints in its own folder when it is run again, whose name carries a
checksum of the job's configuration, so that nothing of another configuration is taken over.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metalearn_tut.claims.records import (
    check_clean,
    clear_partial,
    record_of,
    records_of,
    write_record,
)
from metalearn_tut.claims.study import Job
from metalearn_tut.machine import keep_memory

_SPAWN = mp.get_context("spawn")  # a forked process would share PyTorch's threads and locks
Where = tuple[Path, Path, bool]
"""The folder, that of the records, and ``clean``."""

DIED = "its process ended without a word (killed, or out of memory?)"


@dataclass
class Outcome:
    """What became of the jobs.

    Parameters
    ----------
    records : dict
        Of each job that has ended, by name: its file's content (see
        :func:`~metalearn_tut.claims.records.record_of`).
    failed : dict
        Of each other job: why it has no result.
    """

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_jobs(
    jobs: Sequence[Job],
    folder: str | os.PathLike[str],
    *,
    records: str | os.PathLike[str] | None = None,
    clean: bool = False,
    processes: int = 1,
    threads: int = 1,
) -> Outcome:
    """Do all jobs that have no record yet, several at a time.

    Parameters
    ----------
    jobs : sequence of Job
        What to do, in this order.
    folder : path
        Has a folder of its own for each job, with its checkpoints.
    records : path, optional
        Keeps the records; ``folder`` by default.
    clean : bool, default False
        Refuse to write a record of code that no commit holds.
    processes : int, default 1
        Jobs at a time.
    threads : int, default 1
        PyTorch threads of each.

    Returns
    -------
    Outcome
        A job that raises, or whose process dies, has failed; the others are done all the same.

    Raises
    ------
    ValueError
        If two jobs have one name, a name is not fit for a file, or a configuration is not JSON.
    NoProvenance
        If the code's commit is dirty or unknown, with ``clean``.
    KeyboardInterrupt
        After Ctrl-C, when no process runs any more; it says how many jobs are done. The same
        call goes on.
    """
    _check(jobs)
    folder = Path(folder)
    kept = folder if records is None else Path(records)
    outcome = Outcome(records_of(jobs, kept))
    todo = [job for job in jobs if job.name not in outcome.records]
    if todo and clean:
        check_clean()
    try:
        # Closed, which ends the workers, before anyone counts what they have kept.
        ended = closing(_run(todo, (folder, kept, clean), processes, threads))
        with _progress(len(jobs), outcome) as show, ended as each:
            for job, problem in each:
                record = record_of(job, kept)
                if problem or record is None:
                    outcome.failed[job.name] = problem or "its record is not there"
                else:
                    outcome.records[job.name] = record
                show(job)
    except KeyboardInterrupt:
        done = len(records_of(jobs, kept))
        raise KeyboardInterrupt(
            f"stopped; {done} of {len(jobs)} jobs are done and kept in {kept}: "
            "the same command goes on"
        ) from None
    return outcome


def _check(jobs: Sequence[Job]) -> None:
    names = [job.name for job in jobs]
    for job in jobs:
        if names.count(job.name) > 1:
            raise ValueError(f"jobs must have names of their own, got {job.name!r} twice")
        if not re.fullmatch(r"[\w.-]+", job.name):
            raise ValueError(f"a job's name must be of letters, digits, . _ -, got {job.name!r}")
        try:
            same = json.loads(json.dumps(job.config)) == job.config
        except TypeError:
            same = False
        if not same:
            raise ValueError(f"the configuration of job {job.name} must be JSON, got {job.config}")


# In the process that gives out the work


class _Worker:
    """A pool of one process: who killed it is known, and no other job is killed with it."""

    def __init__(self, *prepare: Any) -> None:
        self.options = {"mp_context": _SPAWN, "initializer": _prepare, "initargs": prepare}
        self.pool = ProcessPoolExecutor(1, **self.options)

    def start(self, job: Job, where: Where) -> Future[str | None]:
        """Do a job: what went wrong, if anything."""
        with _deaf():
            try:
                return self.pool.submit(attempt, job, *where)
            except BrokenProcessPool:  # by the job before
                self.pool = ProcessPoolExecutor(1, **self.options)
                return self.pool.submit(attempt, job, *where)


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started meanwhile has no ear for Ctrl-C: this one ends the others."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _run(
    jobs: Sequence[Job],
    where: Where,
    processes: int,
    threads: int,
) -> Iterator[tuple[Job, str | None]]:
    """Each job when it has ended, with what went wrong, if anything."""
    leash, our_end = _SPAWN.Pipe(duplex=False)
    waiting, running = iter(jobs), {}
    workers = [_Worker(leash, threads) for _ in range(processes)]
    try:
        for worker, job in zip(workers, waiting, strict=False):
            running[worker.start(job, where)] = job, worker
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, worker = running.pop(future)
                if (following := next(waiting, None)) is not None:
                    running[worker.start(following, where)] = following, worker
                died = isinstance(future.exception(), BrokenProcessPool)
                yield job, DIED if died else future.result()
    finally:
        our_end.close()  # ends all workers, whatever they do
        for worker in workers:
            worker.pool.shutdown()
        leash.close()


@contextmanager
def _progress(total: int, outcome: Outcome) -> Iterator[Callable[[Job], None]]:
    """A bar of jobs (on a terminal), and a function that prints what became of one."""
    if outcome.records:
        print(f"{len(outcome.records)} of {total} jobs were done before", flush=True)
    with tqdm(total=total, initial=len(outcome.records), unit="job", disable=None) as bar:

        def show(job: Job) -> None:
            if record := outcome.records.get(job.name):
                result = f"{record['values']['seconds']:.0f} s"
            else:
                result = f"failed: {outcome.failed[job.name]}"
            count = len(outcome.records) + len(outcome.failed)
            tqdm.write(f"[{count}/{total}] {job.name}: {result}")
            bar.update()

        yield show


# In the processes that do it


def _prepare(leash: Connection, threads: int) -> None:
    """Before a worker's first job."""
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is the system's, left over when this is killed
    torch.set_num_threads(threads)
    keep_memory()


def _end_with(leash: Connection) -> None:
    """End this process when nobody holds the other end; an orphan would disturb who resumes."""
    with suppress(EOFError, OSError):
        leash.recv()
    os._exit(1)


def attempt(job: Job, folder: Path, records: Path | None = None, clean: bool = False) -> str | None:
    """Do a job here and keep its record; what went wrong comes back as a sentence.

    Parameters
    ----------
    job, folder, records, clean
        As for :func:`run_jobs`.
    """
    work, kept = folder / job.key, records or folder
    resumed, start = work.exists(), time.perf_counter()
    try:
        work.mkdir(parents=True, exist_ok=True)
        kept.mkdir(parents=True, exist_ok=True)
        clear_partial(job, kept)
        values = job.run(job.config, work)
        if clean:
            check_clean()
        write_record(job, kept, values, seconds=time.perf_counter() - start, resumed=resumed)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        log = folder / f"{job.key}.error.txt"
        try:
            log.write_text(traceback.format_exc())
        except OSError:  # on a full disk, say
            return problem
        return f"{problem} (all of it: {log})"
    return None
