"""A study of seconds for test_claims.py; as a script, one that is interrupted.

python toy_study.py FOLDER
"""

import os
import signal
import sys
from pathlib import Path

import torch
import training_runs

from metalearn_tut import evaluate
from metalearn_tut.claims import Claim, Comparison, Job, Study
from metalearn_tut.claims.runner import run_jobs
from metalearn_tut.claims.statistics import right_answers
from metalearn_tut.machine import keep_memory
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import meta_train

STEPS = 40


def train(config, folder):
    """A training; where TOY_STUDY_HOLDS says so, one that stops at its first checkpoint."""
    (folder / "process").write_text(str(os.getpid()))
    if config["seed"] >= int(os.environ.get("TOY_STUDY_HOLDS", config["seed"] + 1)):
        hold_at_the_first_checkpoint()
    learner = training_runs.learner(config["seed"])
    options = {"tasks_per_step": 3, "save_every": 5, "resume": True, "progress": False}
    meta_train(learner, training_runs.sampler(), steps=config["steps"], out=folder, **options)
    found = evaluate(learner, training_runs.sampler(7), 20)
    queries = len(training_runs.sampler(7)[0].query_y)
    return {"test": right_answers((found.values * queries).round(), queries)}


def hold_at_the_first_checkpoint(original=checkpoint.RunFolder.keep):
    def keep(self, *state):
        original(self, *state)
        while True:  # until somebody ends this process
            signal.pause()

    checkpoint.RunFolder.keep = keep


def refuse(config, folder):
    raise RuntimeError("this one cannot be done")


def die_while_writing(config, folder):
    """The first attempt ends when its record is written and not yet in place."""
    if not (folder / "tried").exists():
        (folder / "tried").touch()
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return {}


def circumstances(config, folder):
    memory = keep_memory.cache_info().currsize  # whether anybody asked for it
    return {"memory": memory, "threads": torch.get_num_threads()}


def trainings(quick=False, steps=STEPS):
    seeds = range(2) if quick else range(4)
    return [Job(f"train-{s}", {"seed": s, "steps": 5 if quick else steps}, train) for s in seeds]


def answers(right):
    """Values of a job that got so many of ten right in each task."""
    return {"test": right_answers(right, 10)}


CLAIM = Claim("Practice helps.", "long", "short", source="folklore", ours="nothing")
BESIDE = Comparison("long - none", "long", "none")
STUDY = Study(
    "toy", "Nobody, Toys, 1900", "toys", (0, 1), (CLAIM,), trainings, 0.1, "", reported=(BESIDE,)
)

if __name__ == "__main__":
    try:
        run_jobs(trainings(), Path(sys.argv[1]), processes=2)
    except KeyboardInterrupt as stop:
        print(stop)
        sys.exit(130)
