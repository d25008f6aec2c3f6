"""Tiny runs for test_training.py; as a script, runs that are killed, and runs of several processes.

python training_runs.py kill FOLDER
python training_runs.py remember FOLDER
python training_runs.py distil FOLDER
torchrun --nproc-per-node 2 training_runs.py share FOLDER
"""

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from metalearn_tut import MAML, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.learners.learner import TaskLosses
from metalearn_tut.rank_losses import LogNormalGuidance, ThresholdTracker, WorstMixture
from metalearn_tut.training.loop import meta_train

STEPS = 20


def sampler(seed=0, queries=3):
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(1))
    y = torch.arange(120) % 12
    x = x + torch.nn.functional.one_hot(y % 6).float()
    return tasks.from_arrays(x, y, name="points").sampler(3, 2, queries, seed=seed)


def learner(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return MAML(model, inner_lr=0.2, inner_steps=2, rate_mode="per_layer_and_step")


class Noisy:
    """A learner that draws random numbers, and dies in the step it is told to."""

    def __init__(self, base, dies_at=None):
        self.base, self.dies_at = base, dies_at
        self.meta_parameters, self.adapt = base.meta_parameters, base.adapt

    def task_losses(self, batch, progress=1.0):
        if self.dies_at is not None and round(progress * STEPS) == self.dies_at:
            die()
        losses, accuracy = self.base.task_losses(batch, progress)
        return TaskLosses(losses * (1 + 0.1 * torch.randn(len(losses))), accuracy)


def distiller(seed=0, width=16):
    torch.manual_seed(seed)
    teacher = nn.Sequential(nn.Linear(6, width), nn.Dropout(0.2), nn.Tanh(), nn.Linear(width, 3))
    return MetaDistiller(MAML(teacher, 0.3, 3), learner(seed), temperature=2.0)


def resumable(out, dies_at=None, base=None, **changes):
    """The run that is killed and resumed; every checkpoint is in its ``out``."""
    settings = {"steps": STEPS, "tasks_per_step": 3, "clip": 0.5, "outer_lr": 0.01}
    settings |= {"validation": sampler(1), "validate_every": 4, "validation_tasks": 5}
    settings |= {"save_every": 3, "resume": True, "progress": False, **changes}
    trained = Noisy(learner() if base is None else base, dies_at)
    return trained, meta_train(trained, sampler(), out=out, **settings)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_call(owner, name, count, before=None, after=False):
    """Replace a function by one that kills the process in its ``count``-th call."""
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            if before:
                before(*args)
            if after:
                original(*args, **kwargs)
            die()
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


def write_half(path, data):
    with Path(path).open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()


# Each is tried in a process of its own, one after the other on the same folder. A checkpoint is
# written in three calls (write_bytes, fsync, replace); the first validation, after step 4, writes
# the best and then the last.
DEATHS = {
    "in the first step": lambda: 0,
    "half way through the first checkpoint": lambda: die_in_call(
        Path, "write_bytes", 1, before=write_half
    ),
    "half way through the best": lambda: die_in_call(Path, "write_bytes", 2, before=write_half),
    "best in place": lambda: die_in_call(Path, "replace", 1, after=True),
    "last in place": lambda: die_in_call(Path, "replace", 2, after=True),
    "in a step between checkpoints": lambda: 7,
    "half way through a later checkpoint": lambda: die_in_call(
        Path, "write_bytes", 2, before=write_half
    ),
    "written, not yet flushed": lambda: die_in_call(os, "fsync", 2),
    "flushed, not yet in place": lambda: die_in_call(Path, "replace", 1),
    "in the last step": lambda: STEPS - 1,
    "between last and history": lambda: die_in_call(Path, "write_text", 1),
}


def in_child(action):
    """Run ``action`` in a forked process; returns the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def ready_to_fork(folder):
    # tqdm's lock is shared with forked processes, and one that is killed cannot give it back
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0  # no thread beside the one that forks
    resumable(folder / "warm", steps=1, validation=None)  # imports, once for all children


def kill(folder):
    ready_to_fork(folder)
    for name, prepare in DEATHS.items():
        ended = in_child(lambda p=prepare: resumable(folder / "planned", p()))
        left = sorted(p.name for p in (folder / "planned").iterdir())
        print(f"{name}: {ended} {' '.join(left)}")
    print(f"to the end: {in_child(lambda: resumable(folder / 'planned'))}")
    for pause in (0.01, 0.02, 0.04, 0.08, 0.16):
        kill_after(pause, folder / "unplanned")
    print(f"to the end: {in_child(lambda: resumable(folder / 'unplanned'))}")


def kill_after(pause, folder):
    child = os.fork()
    if not child:
        resumable(folder)
        os._exit(0)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def logging(aggregate):
    """The same, with its log in the checkpoints."""
    aggregate.keeps_log = True
    return aggregate


REMEMBERING = {
    "sgda": lambda: logging(ThresholdTracker(1, 2, rate=0.3, burn_in=5)),
    "sgda_f2": lambda: logging(ThresholdTracker(1, 2, mode="sgda_f2", rate=0.3, burn_in=2)),
    "guided": lambda: logging(LogNormalGuidance(-1.0, 0.5)),
    "mixture": lambda: logging(WorstMixture(7, rate=0.2)),
}


def remember(folder):
    """A run with each aggregate that remembers, killed and resumed."""
    ready_to_fork(folder)
    for name, make in REMEMBERING.items():
        for dies_at in (11, None):
            out = folder / name
            print(in_child(lambda o=out, d=dies_at, m=make: resumable(o, d, aggregate=m())))


PARTS = {"teacher": 0.01, "student": 0.02}


def distil(folder):
    """A run that trains a teacher and a student, killed twice and resumed."""
    ready_to_fork(folder)
    for dies_at in (5, 11, None):
        run = partial(resumable, folder / "run", dies_at, distiller(), outer_lr=PARTS)
        print(in_child(run))


def trimmed(losses):
    """Mean without the smallest and the largest."""
    return losses.sort().values[1:-1].mean()


SHARED = {
    "mean": {},
    "max": {"aggregate": torch.max},
    "trimmed": {"aggregate": trimmed},
    "clipped": {"clip": 0.05},
    "parts": {"clip": 0.05, "outer_lr": {"0": 0.01, "2": 0.03, "rates": 0.002}},
    "sgda": {"aggregate": logging(ThresholdTracker(1, 4, rate=0.3, burn_in=3))},
    "guided": {"aggregate": logging(LogNormalGuidance(-1.0, 0.5))},
}


def shared(case, out, seed=0):
    """One run that several processes share; tasks and validation tasks are not even."""
    trained = learner(seed)
    settings = {"steps": 10, "tasks_per_step": 5, "outer_lr": 0.01, "validation": sampler(1)}
    settings |= {"validate_every": 3, "validation_tasks": 7, "progress": False}
    meta_train(trained, sampler(), out=out, **settings | SHARED[case])
    return trained.meta_parameters()


def share(folder):
    rank = int(os.environ["RANK"])
    for case in SHARED:
        end = shared(case, folder / case, seed=rank)  # the first process's seed must win
        torch.save({n: p.detach() for n, p in end.items()}, folder / f"{case}-{rank}.pt")
        memory = getattr(SHARED[case].get("aggregate"), "state_dict", dict)()
        (folder / f"{case}-{rank}.json").write_text(json.dumps(memory))


if __name__ == "__main__":
    torch.set_num_threads(1)
    modes = {"kill": kill, "remember": remember, "distil": distil, "share": share}
    modes[sys.argv[1]](Path(sys.argv[2]))
