"""The jobs of the ANP study: learners pruned in rounds, without filters, or naively."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import runs, saliency
from metalearn_tut.claims.learners import (
    TasksFrom,
    correct_answers,
    correct_by_split,
    latency_ratio,
    narrowed,
    network_cost,
    train_tasks,
    trained_learner,
)
from metalearn_tut.claims.statistics import accuracies
from metalearn_tut.claims.study import Config
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.learners.maml import MAML
from metalearn_tut.tasks import EpisodeSampler, TaskSampler
from metalearn_tut.tasks.task import Task
from metalearn_tut.training.loop import meta_train

COMPENSATING = ("anp", "lobs")  # the other scores are compared as they are published: without

# Learners pruned in rounds


def pruned(config: Config, folder: Path) -> dict[str, Any]:
    """Prune a dense learner in rounds, with the same masked training after each.

    Returns
    -------
    dict
        By the share removed so far (``"0.85"``): correct answers of every task after training;
        with ``before `` in front of it, before training; with ``cost ``, what the network
        costs. ``kept``: share kept of each layer, and (``""``) of all prunable weights.
    """
    learner = trained_learner(config["dense"], folder)
    sampler = train_tasks(config["dense"]["data"], config["dense"]["seed"])
    return after_rounds(learner, sampler, config, folder)


def after_rounds(
    learner: MAML, sampler: TaskSampler, config: Config, folder: Path
) -> dict[str, Any]:
    """What :func:`pruned` returns, for any learner."""
    data, rounds = config["dense"]["data"], config["schedule"]
    removed = [f"{sum(rounds[: r + 1]):.2f}" for r in range(len(rounds))]
    steps = config["retrain"]["steps"]

    def test(learner: MAML, *splits: str) -> dict[str, str]:
        wanted = {split: config["test"][split] for split in splits if split in config["test"]}
        return correct_by_split(learner, {"data": data, "test": wanted})

    def retrain(learner: MAML, number: int) -> dict[str, Any]:
        share = removed[number - 1]
        found = test(learner, f"before {share}")
        later = TasksFrom(sampler, 10**6 * number)  # no task twice in a run
        options = {"out": folder / f"round-{number}", "resume": True, "progress": False}
        meta_train(learner, later, **{**config["retrain"], "steps": steps[number - 1]}, **options)
        network, masks = learner.model, learner.masks
        found[f"cost {share}"] = network_cost(network, sampler[0].support_x.shape[1:], masks)
        return found | test(learner, share, f"validation {share}")

    schedule = rounds if config["score"] else [0.0] * len(rounds)
    score = config["score"] or "magnitude"
    compensate = score in COMPENSATING
    criterion = saliency.Criterion(method=score, compensate=compensate, **config["options"])
    history = saliency.anp_prune(
        learner,
        TasksFrom(sampler, 10**8),
        saliency.Rounds(schedule, retrain),
        criterion,
        out=folder / "rounds",
        resume=True,
        progress=False,
    ).history
    kept = {
        share: {**r["layers"], "": r["kept"]} for share, r in zip(removed, history, strict=True)
    }
    return {"kept": kept} | {n: found for r in history for n, found in r["retrained"].items()}


# Whole filters


def filters(config: Config, folder: Path) -> dict[str, Any]:
    """Remove filters of a dense learner for good, by ANP's score, and train what is left.

    Returns
    -------
    dict
        By the share of filters kept: ``accuracy``, and ``macs``, ``bytes`` and ``latency`` of the
        network adapted to a task, relative to the dense one's.
    """
    learner = trained_learner(config["dense"], folder)
    data, seed = config["dense"]["data"], config["dense"]["seed"]
    sampler = train_tasks(data, seed)
    tasks = TasksFrom(sampler, 10**8).tasks(range(config["n_tasks"]))
    values = {}
    for keep in config["keep"]:
        narrow = narrowed(learner, tasks, keep, config["dense"]["algorithm"])
        options = {"out": folder / f"keep-{keep}", "resume": True, "progress": False}
        meta_train(narrow, TasksFrom(sampler, 10**6), **config["retrain"], **options)
        correct = accuracies(
            correct_answers(narrow, data, config["test"]), 5 * config["test"]["queries"]
        )
        values[str(keep)] = {
            "accuracy": correct.mean().item(),
            **_relative(narrow, learner, tasks[0]),
        }
    return values


def _relative(narrow: MAML, dense: MAML, task: Task) -> dict[str, float]:
    """What the one costs, adapted to a task and alone, relative to the other."""
    shape = task.support_x.shape[1:]
    a, b = (each.adapt(task.support_x, task.support_y).deploy() for each in (narrow, dense))
    return {
        "latency": latency_ratio(a, b, shape, turns=5),
        "macs": cost.macs(a, shape) / cost.macs(b, shape),
        "bytes": cost.size_bytes(a) / cost.size_bytes(b),
    }


# The naive way: an ordinary network, pruned, and then meta-trained


def naive(config: Config, folder: Path) -> dict[str, Any]:
    """Train a network on one task, prune it, and meta-train what is left, as long as ANP's arm.

    The first training task's five classes are learned from all their images, by gradient descent
    from scratch; :func:`after_rounds` prunes that network with ordinary training between the
    rounds; then the mask is kept and the weights that are left are meta-trained.
    """
    setup, ordinary = config["dense"], config["ordinary"]
    torch.manual_seed(setup["seed"])
    learner = runs.build_learner(setup)
    plain = MAML(learner.model, inner_lr=0.0, inner_steps=0)
    one = OneTask(train_tasks(setup["data"], setup["seed"]))
    options = {"out": folder / "ordinary", "resume": True, "progress": False}
    meta_train(plain, one, **ordinary["training"], **options)
    learned = evaluate(plain, TasksFrom(one, 10**7), 20).mean

    def retrain(plain: MAML, number: int) -> None:
        options["out"] = folder / f"ordinary-{number}"
        meta_train(plain, TasksFrom(one, 10**6 * number), **ordinary["retrain"], **options)

    compensate = config["score"] in COMPENSATING
    saliency.anp_prune(
        plain,
        TasksFrom(one, 10**8),
        saliency.Rounds(config["schedule"], retrain),
        saliency.Criterion(method=config["score"], compensate=compensate, **config["options"]),
        out=folder / "rounds",
        resume=True,
        progress=False,
    )
    learner.set_masks(plain.masks)
    options["out"] = folder / "meta"
    sampler = train_tasks(setup["data"], setup["seed"])
    meta_train(learner, sampler, **config["training"], **options)
    return {"test": correct_answers(learner, setup["data"], config["test"]), "ordinary": learned}


class OneTask(TaskSampler):
    """The five classes of a sampler's first task again and again, always with the same labels.

    Ten images of each are the query set, the ten others normalize it.
    """

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.names = sampler[0].tags["classes"]
        names, source = sampler.source.class_names, sampler.source
        chosen = source.select([names.index(name) for name in self.names], "one task")
        self.episodes = chosen.sampler(len(self.names), 10, 10, sampler.seed)

    def __repr__(self) -> str:
        return f"OneTask({', '.join(self.names)})"

    def __getitem__(self, index: int) -> Task:
        task = self.episodes[index]
        labels = torch.tensor([self.names.index(name) for name in task.tags["classes"]])
        return replace(task, support_y=labels[task.support_y], query_y=labels[task.query_y])
