"""The jobs of the HeTRoM study: trainings on mixed tasks, and two small measurements."""

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
from metalearn_tut.claims.study import Job
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.learners.learner import Learner
from metalearn_tut.rank_losses import RankedRange, Selection
from metalearn_tut.tasks import TaskSampler
from metalearn_tut.training.loop import meta_train

Config = dict[str, Any]
SEEDS, RATES = (0, 1, 2), (0.3, 0.5)
N, TEST = 16, {"tasks": 600, "queries": 10, "seed": 1}
KINDS = {"labels": "random support labels", "outliers": "tasks of another source"}
HETROM = {0.3: (5, N), 0.5: (8, N)}  # m = ceil(rate · n): as many left out as are noisy
GRID = ((5, 14), (5, 16), (8, 14), (8, 16))
EASY_GRID = (4, 8, 12)

LEARNER = {
    "model": {"name": "Conv4", "in_channels": 1, "ways": 5, "width": 32, "norm": "support"},
    "algorithm": {
        "name": "maml",
        "inner_lr": 0.4,
        "inner_steps": 1,
        "rate_mode": "per_layer",
        "zero_head": True,
        "deferred": True,  # the same gradients, but none for tasks of weight 0
    },
}


def all_jobs(quick: bool) -> list[Job]:
    """Every arm with every seed, then the measurements; quick: fewer steps, seeds and arms."""
    trainings = [_training(*arm, seed, quick) for seed in SEEDS for arm in _arms()]
    if quick:
        trainings = [_training(*arm, 0, quick) for arm in _arms() if arm[0] in _QUICK]
    short = {**LEARNER, "tasks": kind_of_tasks("labels", 0.5), "seed": 0}
    same = {**short, "training": _loop(5 if quick else 20)}
    arms = {
        "mean": {"name": "mean", "deferred": False},
        "hetrom": {"name": "range", "m": 8, "k": N, "deferred": True},
        "hetrom, all gradients": {"name": "range", "m": 8, "k": N, "deferred": False},
        "sg": {"name": "guided", "deferred": True},
    }
    timed = {**short, "training": _loop(3 if quick else 10), "arms": arms, "rounds": 3}
    return [Job("same-bits", same, same_bits), Job("cost", timed, cost), *trainings]


def _arms() -> list[tuple[str, str, float, dict[str, Any]]]:
    """Name, kind of tasks, noise rate and aggregate of all arms."""
    mean, oracle, guided = ({"name": name} for name in ("mean", "oracle", "guided"))
    common = {"mean": mean, "max": ranked(0, 1), "top": ranked(0, N // 2)}
    clean = {**common, "range-5-16": ranked(5, 16), "sg": guided}
    arms = [(f"clean-{arm}", "clean", 0.0, how) for arm, how in clean.items()]
    for rate in RATES:
        grid = {f"range-{m}-{k}": ranked(m, k) for m, k in GRID}
        noisy = {**common, "oracle": oracle, "sg": guided, **grid}
        arms += [(f"labels-{rate}-{arm}", "labels", rate, how) for arm, how in noisy.items()]
        few = {**common, "oracle": oracle, fitting_arm(rate): ranked(*HETROM[rate])}
        arms += [(f"outliers-{rate}-{arm}", "outliers", rate, how) for arm, how in few.items()]
    hard = {"mean": mean, **{f"top-{k}": ranked(0, k) for k in EASY_GRID}}
    return arms + [(f"easy-{arm}", "easy", 0.1, how) for arm, how in hard.items()]


_QUICK = (
    *("clean-mean", "clean-range-5-16", "easy-mean", "easy-top-8", "labels-0.5-sg"),
    *(f"{kind}-0.5-{arm}" for kind in KINDS for arm in ("mean", "range-8-16", "oracle")),
    *(f"{kind}-0.3-{arm}" for kind in KINDS for arm in ("mean", "range-5-16")),
)


def fitting_arm(rate: float) -> str:
    """The arm that leaves out as many tasks as are noisy on average."""
    return "range-{}-{}".format(*HETROM[rate])


def ranked(m: int, k: int) -> Config:
    """The aggregate of ranks m + 1 to k."""
    return {"name": "range", "m": m, "k": k}


def kind_of_tasks(kind: str, rate: float) -> dict[str, Any]:
    """What :func:`~metalearn_tut.claims.hetrom.tasks.training_tasks` takes: 5-way 1-shot glyphs."""
    return {"data": {"name": "glyphs"}, "kind": kind, "rate": rate, "shots": 1, "queries": 5}


def _loop(steps: int) -> dict[str, Any]:
    """Of all arms: the outer rate was chosen for the mean, on 300 validation tasks (one seed).

    After 220 to 240 steps, half of the tasks with random labels: 0.55 with a rate of 0.002,
    0.59 with 0.005, 0.67 with 0.01, 0.59 with 0.02; clean tasks: 0.95 with 0.005 and 0.01.
    """
    return {"steps": steps, "tasks_per_step": N, "outer_lr": 0.01}


def _training(arm: str, kind: str, rate: float, how: Config, seed: int, quick: bool) -> Job:
    grid = how.get("k") in EASY_GRID if kind == "easy" else (how.get("m"), how.get("k")) in GRID
    validated = grid and kind in ("easy", "labels")
    more = {"fit": 200 if quick else 600} if how["name"] == "guided" else {}
    return training_job(arm, kind_of_tasks(kind, rate), how, seed, quick, validated, **more)


def training_job(
    arm: str,
    task_config: Config,
    how: Config,
    seed: int,
    quick: bool,
    validated: bool,
    **more: Any,
) -> Job:
    """An arm with one seed; ``validated`` if validation tasks choose among arms like it."""
    test = {"test": {**TEST, "tasks": 100} if quick else TEST}
    if validated:
        test["validation"] = {"tasks": 50 if quick else 300, "queries": 10, "seed": 2}
    if task_config["kind"] == "easy":
        test["easy"] = test["test"]
    config = {
        **LEARNER,
        "tasks": task_config,
        "aggregate": how,
        "training": _loop(40 if quick else 200),
        "test": test,
        "seed": seed,
        **more,
    }
    return Job(f"{arm}-{seed}", config, training)


# What they do


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
