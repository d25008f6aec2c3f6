"""The jobs of the HeTRoM studies: trainings on mixed tasks, and two small measurements."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_tut import rank_losses, runs
from metalearn_tut.claims.hetrom.tasks import TAGS, test_tasks, training_tasks
from metalearn_tut.claims.statistics import correct_counts, log_normal_fit
from metalearn_tut.claims.study import Config
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.learners.learner import Learner
from metalearn_tut.rank_losses import RankedRange, Selection
from metalearn_tut.tasks import TaskSampler
from metalearn_tut.training.loop import meta_train

N = 16  # tasks of a step


def training(config: Config, folder: Path, progress: bool = False) -> dict[str, Any]:
    """Train one arm with one seed, and test it on clean tasks.

    Returns
    -------
    dict
        ``test`` and perhaps ``validation``: correct answers of every task (see
        :func:`~metalearn_tut.claims.statistics.correct_counts`); ``rejection`` if some tasks are
        noisy; ``fit`` if ``config["fit"]`` tasks are asked for; ``skipped`` steps.
    """
    torch.manual_seed(config["seed"])
    learner = runs.build_learner(config, config.get("device", "cpu"))
    sampler = training_tasks(config["tasks"], config["seed"])
    rank_loss = aggregate(config["aggregate"], sampler, learner)
    if isinstance(rank_loss, rank_losses.TaskAggregate):
        rank_loss.keeps_log = True
    options = {"out": folder, "resume": True, "progress": progress, **config["training"]}
    history = meta_train(learner, sampler, aggregate=rank_loss, **options)
    values: dict[str, Any] = {"skipped": len(history.skipped)}
    for split, wanted in config["test"].items():
        found = evaluate(learner, test_tasks(config["tasks"], split, wanted), wanted["tasks"])
        values[split] = correct_counts(found.values, 5 * wanted["queries"])
    if isinstance(rank_loss, rank_losses.TaskAggregate) and config["tasks"]["kind"] in TAGS:
        tag, n = TAGS[config["tasks"]["kind"]], options["tasks_per_step"]
        values["rejection"] = rejection(rank_loss.log, sampler, tag, n)
    if fresh := config.get("fit"):
        others = training_tasks(config["tasks"], config["seed"] + 1000)
        values["fit"] = log_normal_fit(losses_of(learner, others, fresh))
    return values


def losses_of(learner: Learner, sampler: TaskSampler, n: int) -> Tensor:
    """Losses ``[n]`` of the first n tasks as training sees them, noisy ones included."""
    batches = (sampler.tasks(range(i, min(i + N, n))).blind() for i in range(0, n, N))
    return torch.cat([learner.task_losses(batch).losses.detach() for batch in batches])


# Aggregates, and what they did


def aggregate(config: Config, sampler: TaskSampler, learner: Learner) -> Any:
    """An arm's aggregate: ``"mean"``, ``"range"`` (m, k), ``"guided"`` or ``"oracle"``.

    ``"guided"`` may have ``z_low`` and ``z_high`` (None for no limit), and ``clean``: the
    thresholds then come from the learner's losses on that many ``tasks`` of the validation
    scripts, drawn with ``seed`` and looked at ``every`` so many steps.
    """
    if config["name"] == "range":
        return RankedRange(config["m"], config["k"])
    if config["name"] == "guided":
        return _guided(config, learner)
    if config["name"] == "oracle":
        return rank_losses.Oracle(lambda i: any(sampler[i].tags.get(t) for t in TAGS.values()))
    return torch.mean


def _guided(config: Config, learner: Learner) -> rank_losses.LogNormalGuidance:
    limits = {n: config[n] for n in ("z_low", "z_high") if n in config}
    ends = {"z_low": -math.inf, "z_high": math.inf}
    limits = {n: ends[n] if z is None else z for n, z in limits.items()}
    if (clean := config.get("clean")) is None:
        return rank_losses.LogNormalGuidance(**limits)
    validation = runs.build_source(clean["data"], "validation")
    sampler = validation.sampler(5, clean["shots"], clean["queries"], clean["seed"])
    source = partial(rank_losses.clean_losses, learner, sampler, clean["tasks"])
    return rank_losses.LogNormalGuidance(**limits, source=source, every=clean["every"])


def rejection(log: Sequence[Selection], sampler: TaskSampler, tag: str, n: int) -> Config:
    """How well noisy tasks were told from others in each fourth of training.

    ``precision``: of the tasks left out, the share that is noisy; ``recall``: of the noisy
    tasks, the share that was left out (each None if there are none); ``kept``: of all tasks.
    """
    noisy = torch.tensor([bool(sampler[i].tags[tag]) for i in range(n * len(log))])
    kept = torch.zeros(len(log), n, dtype=torch.bool)
    for step, selection in enumerate(log):
        kept[step, list(selection.kept)] = True
    shares: Config = {"precision": [], "recall": [], "kept": []}
    for out, bad in zip((~kept).chunk(4), noisy.reshape(-1, n).chunk(4), strict=True):
        hits = int((out & bad).sum())
        for what, among in (("precision", out), ("recall", bad)):
            shares[what].append(hits / int(among.sum()) if among.any() else None)
        shares["kept"].append(1 - out.double().mean().item())
    return shares


# Measurements


def same_bits(config: Config, folder: Path) -> dict[str, Any]:
    """Whether training with ranks (0, n) leaves the very bits that training with the mean does."""
    ends = []
    for rank_loss in (torch.mean, RankedRange(0, config["training"]["tasks_per_step"])):
        torch.manual_seed(config["seed"])
        learner = runs.build_learner(config)
        sampler = training_tasks(config["tasks"], config["seed"])
        meta_train(learner, sampler, aggregate=rank_loss, progress=False, **config["training"])
        ends.append(learner.meta_parameters())
    return {"equal": all(torch.equal(p, ends[1][name]) for name, p in ends[0].items())}


def cost(config: Config, folder: Path) -> dict[str, Any]:
    """Seconds per step of each arm, in alternating rounds of one process: the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in config["arms"]}
    sampler = training_tasks(config["tasks"], config["seed"])
    for _ in range(config["rounds"] + 1):
        for name, arm in config["arms"].items():
            torch.manual_seed(config["seed"])
            algorithm = {**config["algorithm"], "deferred": arm["deferred"]}
            learner = runs.build_learner({**config, "algorithm": algorithm})
            rank_loss = aggregate(arm, sampler, learner)
            start = time.perf_counter()
            meta_train(learner, sampler, aggregate=rank_loss, progress=False, **config["training"])
            seconds[name].append((time.perf_counter() - start) / config["training"]["steps"])
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {"seconds_per_step": medians}
