"""``metalearn-tut reproduce`` killed at random moments, for test_faults.py; as a script:

python fault_study.py MOMENTS FOLDER

prints a line of JSON for each moment: the share of the work that was done, who was killed (everyone
at once, the process that gives out the work, or one that does it), how many jobs had a record by
then and how many a checkpoint only, and what differs, in the end, from a reproduction that nobody
interrupted.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import training_runs
from toy_study import STUDY, trainings

from metalearn_tut import claims
from metalearn_tut.claims import runner
from metalearn_tut.claims.records import record_of, records_of
from metalearn_tut.cli import program as cli

JOBS = trainings(steps=200)  # most of the work, though every process imports PyTorch first
VICTIMS = ("everyone", "parent", "worker")


def start(folder):
    """The command, in a process group of its own; what it says goes to a file."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            with (folder / "said.txt").open("a") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            claims.load = lambda name: replace(STUDY, jobs=lambda quick: JOBS)
            runner.check_clean = lambda: None
            places = ["--out", str(folder / "out"), "--results", str(folder / "results")]
            status = cli.run(["reproduce", "hetrom", "--processes", "2", *places])
        finally:
            os._exit(status)
    return child


def members(group):
    """The living processes of a group: seconds of the processor that they and theirs had."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *rest = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(its_group) == group and state != "Z":
            ticks = sum(map(int, rest[8:12]))  # its own, and those of children that have ended
            found[int(path.parent.name)] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def at_work(folder):
    return any((folder / "out" / STUDY.name / job.key).exists() for job in JOBS)


def ended(child):
    return os.waitpid(child, os.WNOHANG)[0] != 0


def to_the_end(folder):
    """Seconds of the processor when the first job had begun, and when all was done."""
    child = start(folder)
    while not at_work(folder):
        assert not ended(child), (folder / "said.txt").read_text()
        time.sleep(0.005)
    begun = sum(members(child).values())
    _, status, used = os.wait4(child, 0)
    assert status == 0, (folder / "said.txt").read_text()
    return begun, used.ru_utime + used.ru_stime


def kill_after(seconds, folder, victim, draw):
    """Kill somebody once all have used so much of the processor; whether they were at work."""
    child = start(folder)
    while not at_work(folder) or sum(members(child).values()) < seconds:
        if ended(child):
            return False
        time.sleep(0.005)
    workers = [pid for pid in sorted(members(child)) if does_the_work(pid)]
    if victim == "worker" and workers:
        os.kill(draw.choice(workers), signal.SIGKILL)
    elif victim == "parent":
        os.kill(child, signal.SIGKILL)
    else:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while members(child):  # orphans end by themselves
        time.sleep(0.005)
    return status != 0


def does_the_work(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def state(folder):
    """How many jobs have a record, and how many only a checkpoint."""
    study = folder / "out" / STUDY.name
    done = len(records_of(JOBS, folder / "results" / STUDY.name / "jobs"))
    return {"done": done, "begun": len(list(study.glob("*/last.safetensors"))) - done}


def outcome(folder):
    """All that must be the same, whatever happened on the way, by its name."""
    study = folder / "out" / STUDY.name
    records = folder / "results" / STUDY.name / "jobs"
    found = {"files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))}
    for job in JOBS:
        found[f"record of {job.name}"] = record_of(job, records)["values"]["values"]
        for path in (study / job.key).iterdir():
            if path.name != "process":
                found[f"{job.name}/{path.name}"] = path.read_bytes()
    return found


def kill(moments, folder):
    folder.mkdir(exist_ok=True)
    begun, seconds = to_the_end(folder / "whole")
    expected, draw = outcome(folder / "whole"), random.Random("study")
    for moment in range(moments):
        here, share, victim = folder / str(moment), draw.random(), draw.choice(VICTIMS)
        while not kill_after(begun + share * (seconds - begun), here, victim, draw):
            shutil.rmtree(here)  # no machine is as fast twice: it had ended, so earlier
            share /= 2
        before = state(here)
        _, status = os.waitpid(start(here), 0)
        found = outcome(here) if status == 0 else {}
        names = found.keys() | expected.keys()
        wrong = sorted(name for name in names if found.get(name) != expected.get(name))
        told = {"share": share, "victim": victim, **before}
        print(json.dumps({**told, "status": status, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    training_runs.ready_to_fork(Path(sys.argv[2]))
    kill(int(sys.argv[1]), Path(sys.argv[2]) / "study")
