"""Run jobs in processes of their own; what is done stays done, whatever interrupts it.

A job that has ended is one JSON file, written whole by the process that did it. A job that was
cut short finds its checkpoints in its own folder when it is run again. Files carry a checksum
of the job's configuration in their names, so nothing of another configuration is taken over.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metalearn_tut.claims.records import clear_partial, record_of, write_record
from metalearn_tut.claims.study import Job

_SPAWN = mp.get_context("spawn")  # a forked process would share PyTorch's threads and locks


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
    processes: int = 1,
    threads: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Do all jobs that have no record in ``folder`` yet, several at a time.

    Parameters
    ----------
    jobs : sequence of Job
        What to do, in this order.
    folder : path
        Keeps the records, and a folder of its own for each job.
    processes : int, default 1
        Jobs at a time.
    threads : int, default 1
        PyTorch threads of each.
    environment : mapping, optional
        Environment variables of the processes beside the present ones.

    Returns
    -------
    Outcome
        A job that raises, or whose process dies, has failed; the others are done all the same.

    Raises
    ------
    ValueError
        If two jobs have one name, a name is not fit for a file, or a configuration is not JSON.
    KeyboardInterrupt
        After Ctrl-C, when no process runs any more; it says how many jobs are done. The same
        call goes on.
    """
    _check(jobs)
    folder = Path(folder)
    found = {job.name: record_of(job, folder) for job in jobs}
    outcome = Outcome({name: record for name, record in found.items() if record})
    todo = [job for job in jobs if not found[job.name]]
    try:
        attempts = closing(_attempts(todo, folder, min(processes, len(todo)), threads))
        # Closed, which ends the workers, before anyone counts what they have kept.
        with _environment(environment or {}), _said(len(jobs), outcome) as say, attempts as ended:
            for job, problem in ended:
                record = record_of(job, folder)
                if problem or record is None:
                    outcome.failed[job.name] = problem or "its record is not there"
                else:
                    outcome.records[job.name] = record
                say(job)
    except KeyboardInterrupt:
        done = sum(record_of(job, folder) is not None for job in jobs)
        raise KeyboardInterrupt(
            f"stopped; {done} of {len(jobs)} jobs are done and kept in {folder}: "
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
    """A process that does one job after another, and the job it has."""

    def __init__(self, threads: int) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, threads), daemon=True)
        with _deaf_to_interrupts():  # Ctrl-C is for this process, which ends the others
            self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.job: Job | None = None

    def give(self, job: Job, folder: Path) -> None:
        self.job = job
        with suppress(OSError):  # it has died already, as problem() will say
            self.pipe.send((job, folder))

    def problem(self) -> str | None:
        """Why the job failed, if it did; waits for its end."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return f"its process ended with exit code {self.process.exitcode}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _attempts(
    jobs: Sequence[Job], folder: Path, processes: int, threads: int
) -> Iterator[tuple[Job, str | None]]:
    """Each job when it has ended, with what went wrong, if anything."""
    waiting, busy = list(reversed(jobs)), [_Worker(threads) for _ in range(processes)]
    try:
        for worker in busy:
            worker.give(waiting.pop(), folder)
        while busy:
            for pipe in wait([worker.pipe for worker in busy]):
                place = next(i for i, worker in enumerate(busy) if worker.pipe is pipe)
                worker = busy[place]
                job, problem = worker.job, worker.problem()
                if not waiting or not worker.process.is_alive():
                    worker.end()
                    busy[place : place + 1] = [_Worker(threads)] if waiting else []
                if waiting:
                    busy[place].give(waiting.pop(), folder)
                yield job, problem
    finally:
        for worker in busy:
            worker.end()


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, as a process started meanwhile then does from its first moment."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _said(total: int, outcome: Outcome) -> Iterator[Any]:
    """A bar of jobs (on a terminal), and a function that prints what became of one."""
    if outcome.records:
        print(f"{len(outcome.records)} of {total} jobs were done before", flush=True)
    with tqdm(total=total, initial=len(outcome.records), unit="job", disable=None) as bar:

        def say(job: Job) -> None:
            record = outcome.records.get(job.name)
            said = f"{record['values']['seconds']:.0f} s" if record else outcome.failed[job.name]
            count = len(outcome.records) + len(outcome.failed)
            tqdm.write(f"[{count}/{total}] {job.name}: {'' if record else 'failed: '}{said}")
            bar.update()

        yield say


# In the processes that do it


def _serve(pipe: Connection, threads: int) -> None:
    """Do the jobs that come through the pipe until it is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is the system's, left over when this is killed
    torch.set_num_threads(threads)
    while True:
        try:
            job, folder = pipe.recv()
        except EOFError:
            return
        pipe.send(_attempt(job, folder))


def _end_with_parent() -> None:
    """An orphan would go on writing where a resumed study does."""
    mp.parent_process().join()
    os._exit(1)


def _attempt(job: Job, folder: Path) -> str | None:
    """Do a job and keep its record; what went wrong comes back as a sentence."""
    work = folder / job.key
    resumed, start = work.exists(), time.perf_counter()
    try:
        work.mkdir(parents=True, exist_ok=True)
        clear_partial(job, folder)
        values = job.run(job.config, work)
        write_record(job, folder, values, seconds=time.perf_counter() - start, resumed=resumed)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        try:
            (folder / f"{job.key}.error.txt").write_text(traceback.format_exc())
        except OSError:  # on a full disk, say
            return said
        return f"{said} (all of it: {folder / job.key}.error.txt)"
    return None
