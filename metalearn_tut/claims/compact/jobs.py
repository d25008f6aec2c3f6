"""The jobs of the study that compares: learners of all recipes, tested and measured alike.

A recipe makes a learner from a configuration and a folder, in which it goes on from its own
checkpoints. So whoever needs a finished learner follows its recipe once more, in its folder.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import runs, saliency
from metalearn_tut.block_voting import BlockGatedResNet12, vote_by_tasks
from metalearn_tut.claims import learners
from metalearn_tut.claims.hetrom.jobs import aggregate
from metalearn_tut.claims.hetrom.tasks import training_tasks
from metalearn_tut.claims.learners import (
    TasksFrom,
    correct_by_split,
    network_cost,
    test_tasks,
    with_network,
)
from metalearn_tut.claims.records import folder_of_job
from metalearn_tut.claims.study import Config, Job
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.evaluation import cost
from metalearn_tut.gating.evaluation import Watched, is_gated
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.maml import MAML
from metalearn_tut.tasks import as_float
from metalearn_tut.training.loop import meta_train

AFTER = 10**6  # training tasks after the n-th prune begin at n of these: none twice in a run
JUDGES = 10**8  # tasks that score and vote


def train_and_measure(config: Config, folder: Path) -> dict[str, Any]:
    """Follow a recipe; test and measure what it makes.

    Returns
    -------
    dict
        Right answers of every task by split; ``cost``: ``parameters``, ``macs`` (of gated
        networks the mean over all test images) and ``bytes`` of the network that is deployed for
        the first test task, without what masks removed.
    """
    learner = make_learner(config, folder)
    watched = Watched(learner) if is_gated(learner) else learner
    values = correct_by_split(watched, config)
    share = statistics.mean(watched.shares) if is_gated(learner) else 1.0
    task = test_tasks(config["data"], config["test"]["test"])[0]
    network = learner.adapt(task.support_x, task.support_y).deploy()
    part = _student_of(learner)
    masks = part.masks if isinstance(part, MAML) else None
    values["cost"] = network_cost(network, task.support_x.shape[1:], masks)
    values["cost"]["macs"] *= share
    return values


def make_learner(config: Config, folder: Path) -> Learner:
    """The learner that a configuration's recipe makes."""
    return RECIPES[config["recipe"]](config, folder)


def _finished(config: Config, folder: Path) -> Any:
    """The finished learner of another job."""
    return make_learner(
        config, folder_of_job(Job(config["name"], config, train_and_measure), folder)
    )


def _student_of(learner: Learner) -> Learner:
    """Of a student and its teacher the student."""
    return getattr(learner, "student", learner)


# Recipes


def trained(config: Config, folder: Path) -> Learner:
    """Meta-train a learner, of clean tasks or noisy ones."""
    torch.manual_seed(config["seed"])
    algorithm = config["algorithm"]
    if algorithm["name"] == "metagater":  # every open filter has its price
        algorithm = {"target": None, **algorithm}
    learner = runs.build_learner({**config, "algorithm": algorithm})
    _train(learner, config, config["steps"], 0, folder)
    return learner


def _train(learner: Learner, config: Config, steps: int, number: int, folder: Path) -> None:
    sampler = TasksFrom(training_tasks(config["tasks"], config["seed"]), AFTER * number)
    how = {"aggregate": aggregate(config["aggregate"], sampler, learner), **config["training"]}
    meta_train(learner, sampler, steps=steps, out=folder, resume=True, progress=False, **how)


def pruned(config: Config, folder: Path) -> Learner:
    """Prune a learner by ANP in rounds, and train it after each, its teacher beside it."""
    learner = _finished(config["base"], folder)
    student = _student_of(learner)

    def retrain(student: MAML, number: int) -> None:
        steps = config["steps"][number - 1]
        _train(learner, config, steps, number, folder / f"round-{number}")

    judges = TasksFrom(training_tasks(config["tasks"], config["seed"]), JUDGES)
    rounds = saliency.Rounds(config["schedule"], retrain)
    criterion = saliency.Criterion(**config["options"])
    options = {"out": folder / "rounds", "resume": True, "progress": False}
    saliency.anp_prune(student, judges, rounds, criterion, **options)
    return learner


def narrowed(config: Config, folder: Path) -> Learner:
    """Remove the filters with the lowest ANP scores for good, and train what is left."""
    learner = _finished(config["base"], folder)
    judges = TasksFrom(training_tasks(config["tasks"], config["seed"]), JUDGES)
    few = judges.tasks(range(config["options"]["n_tasks"]))
    narrow = learners.narrowed(learner, few, config["kept"], config["base"]["algorithm"])
    _train(narrow, config, config["steps"], 1, folder / "narrow")
    return narrow


def gated_blocks(config: Config, folder: Path) -> Learner:
    """Meta-train a residual network whose blocks have gates."""
    torch.manual_seed(config["seed"])
    plain = runs.build_learner(config)
    learner = with_network(plain, BlockGatedResNet12(plain.model), config["algorithm"])
    _train(learner, config, config["steps"], 0, folder)
    return learner


def shortened(config: Config, folder: Path) -> Learner:
    """Remove the blocks that tasks vote out, training after each vote; then train without gates."""
    learner = _finished(config["base"], folder)
    judges = TasksFrom(training_tasks(config["tasks"], config["seed"]), JUDGES)
    number = 0

    def heal(learner: MAML) -> None:
        nonlocal number
        number += 1
        steps = config["steps"][number - 1]
        _train(learner, config, steps, number, folder / f"round-{number}")

    vote_by_tasks(learner, judges, heal=heal, **config["voting"])
    short = with_network(learner, learner.model.ungated(), config["base"]["algorithm"])
    _train(short, config, config["steps"][number], number + 1, folder / "final")
    return short


def taught(config: Config, folder: Path) -> Learner:
    """Meta-train a student beside a finished teacher, which goes on training."""
    torch.manual_seed(config["seed"])
    student = runs.build_learner(config)
    pair = MetaDistiller(_finished(config["teacher"], folder), student, **config["distil"])
    _train(pair, config, config["steps"], 0, folder)
    return pair


RECIPES: dict[str, Callable[[Config, Path], Learner]] = {
    "trained": trained,
    "pruned": pruned,
    "narrowed": narrowed,
    "gated_blocks": gated_blocks,
    "shortened": shortened,
    "taught": taught,
}

# Time


def times(config: Config, folder: Path) -> dict[str, Any]:
    """Seconds to adapt and to classify an image, of all learners in turns.

    Returns
    -------
    dict
        By learner ``adapt``, from a support set to an adapted network, and ``latency``, of that
        network deployed on one image: medians over the turns.
    """
    learners = {name: _finished(each, folder) for name, each in config["learners"].items()}
    task = test_tasks(config["data"], config["test"])[0]
    seconds: dict[str, Any] = {name: {"adapt": [], "latency": []} for name in learners}
    x = as_float(task.query_x[:1])
    for _ in range(config["turns"]):
        for name, learner in learners.items():
            start = time.perf_counter()
            predict = learner.adapt(task.support_x, task.support_y)
            predict(x)  # prototypes are computed when they are needed
            seconds[name]["adapt"].append(time.perf_counter() - start)
            found = cost.latency(predict.deploy(), x.shape[1:], warmup=2, repeats=5)
            seconds[name]["latency"].append(found)
    return {
        name: {what: statistics.median(values) for what, values in each.items()}
        for name, each in seconds.items()
    }
