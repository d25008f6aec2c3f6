"""Tiny runs of each kind for test_faults.py; as a script, runs killed at random moments.

python fault_runs.py MOMENTS FOLDER

prints a line of JSON for each kind and moment: the share of the work that was done, what its folder
had then, and what it has in the end that an uninterrupted run's has not, byte by byte.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import federated_cases
import gate_cases
import torch
import training_runs
from torch import nn

from metalearn_tut import MAML, meta_train
from metalearn_tut.block_voting import Recipe, abp_prune
from metalearn_tut.federated import run_rounds
from metalearn_tut.saliency import Criterion, Rounds, anp_prune


def training(out):
    training_runs.resumable(out)


def pruning(out):
    """Three rounds, each with training that has no checkpoints of its own."""
    sampler = training_runs.sampler()

    def retrain(learner, number):
        history = meta_train(learner, sampler, steps=6, tasks_per_step=2, progress=False)
        return {"loss": history.loss}

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    learner = MAML(network, inner_lr=0.2, inner_steps=2)
    rounds = Rounds((0.2, 0.2, 0.1), retrain)
    criterion = Criterion(n_tasks=3)
    anp_prune(learner, sampler, rounds, criterion, out=out, resume=True, progress=False)


def blocks(out):
    """All three stages of block pruning, a file written after every epoch."""
    recipes = (Recipe(2, lr=0.02), Recipe(2, lr=0.02), Recipe(1, lr=0.02))
    network = gate_cases.gated(seed=0, gate="alone")
    options = {"n_prune": 2, "recipes": recipes, "resume": True, "progress": False}
    abp_prune(network, gate_cases.labelled(8), out=out, **options)


def federated(out):
    federation = federated_cases.maml_federation(rounds=12, fraction=0.7, local_steps=2)
    run_rounds(federation, out=out, resume=True)


RUNS = {run.__name__: run for run in (training, pruning, blocks, federated)}


def contents(folder):
    """All files of a folder, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def differences(folder, whole):
    """Names of the files that one folder has and the other has not, or not so."""
    found, expected = contents(folder), contents(whole)
    names = found.keys() | expected.keys()
    return sorted(name for name in names if found.get(name) != expected.get(name))


def start(run, out):
    """The run in a forked process."""
    child = os.fork()
    if not child:
        status = 1
        try:
            run(out)
            status = 0
        finally:
            os._exit(status)
    return child


def to_the_end(run, out):
    """Seconds of the processor that the run took."""
    _, status, used = os.wait4(start(run, out), 0)
    assert status == 0, status
    return used.ru_utime + used.ru_stime


def kill_after(seconds, run, out):
    """Kill the run once it has used the processor for so long; whether it was still at work."""
    child = start(run, out)
    clock = (~child << 3) | 2  # of that process: what clock_getcpuclockid returns on Linux
    while time.clock_gettime(clock) < seconds:
        time.sleep(0.0005)
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def kill(kind, moments, folder):
    run, draw = RUNS[kind], random.Random(kind)
    folder.mkdir()
    to_the_end(run, folder / "warm up")
    seconds = to_the_end(run, folder / "whole")
    for moment in range(moments):
        out, share = folder / str(moment), draw.random()
        while not kill_after(share * seconds, run, fresh(out)):
            share /= 2  # no machine is as fast twice: it had ended, so earlier
        left = sorted(contents(out))
        to_the_end(run, out)
        wrong = differences(out, folder / "whole")
        told = {"kind": kind, "share": share, "left": left, "wrong": wrong}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    training_runs.ready_to_fork(Path(sys.argv[2]))
    for kind in RUNS:
        kill(kind, int(sys.argv[1]), Path(sys.argv[2]) / kind)
