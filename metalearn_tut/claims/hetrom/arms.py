"""Which arms the HeTRoM studies have: kinds of tasks, and what becomes of a batch's losses."""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.arms import QUERIES, SEEDS, WAYS
from metalearn_tut.claims.hetrom.jobs import N, cost, same_bits, training
from metalearn_tut.claims.learners import CONV4
from metalearn_tut.claims.study import Config, Job

RATES = (0.3, 0.5)
TEST = {"tasks": 600, "queries": QUERIES // WAYS, "seed": 1}
KINDS = {"labels": "random support labels", "outliers": "tasks of another source"}
HETROM = {0.3: (5, N), 0.5: (8, N)}  # m = ceil(rate · n): as many left out as are noisy
GRID = ((5, 14), (5, 16), (8, 14), (8, 16))
EASY_GRID = (4, 8, 12)
Arm = tuple[str, Config, Config, bool]
"""Name, tasks, aggregate, and whether validation tasks choose among arms like it."""

LEARNER: Config = {
    "model": {**CONV4, "width": 32},
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
    fit = 200 if quick else 600
    trainings = [
        training_job(arm, seed, quick, **({"fit": fit} if arm[2]["name"] == "guided" else {}))
        for seed in (SEEDS[:1] if quick else SEEDS)
        for arm in _arms()
        if not quick or arm[0] in _QUICK
    ]
    short = {**LEARNER, "tasks": task_config("labels", 0.5), "seed": 0}
    same = {**short, "training": _loop(5 if quick else 20)}
    timed = {**short, "training": _loop(3 if quick else 10), "arms": TIMED, "rounds": 3}
    return [Job("same-bits", same, same_bits), Job("cost", timed, cost), *trainings]


def ranked(m: int, k: int) -> Config:
    """The aggregate of ranks m + 1 to k."""
    return {"name": "range", "m": m, "k": k}


TIMED: Config = {
    "mean": {"name": "mean", "deferred": False},
    "hetrom": {**ranked(8, N), "deferred": True},
    "hetrom, all gradients": {**ranked(8, N), "deferred": False},
    "sg": {"name": "guided", "deferred": True},
}


def _arms() -> list[Arm]:
    mean, oracle, guided = ({"name": name} for name in ("mean", "oracle", "guided"))
    common = {"mean": mean, "max": ranked(0, 1), "top": ranked(0, N // 2)}
    grid = {f"range-{m}-{k}": ranked(m, k) for m, k in GRID}
    clean = {**common, "range-5-16": ranked(5, 16), "sg": guided}
    arms = named("clean", task_config("clean", 0.0), clean)
    for rate in RATES:
        noisy = task_config("labels", rate)
        arms += named(f"labels-{rate}", noisy, {**common, "oracle": oracle, "sg": guided})
        arms += named(f"labels-{rate}", noisy, grid, validated=True)
        few = {**common, "oracle": oracle, fitting_arm(rate): ranked(*HETROM[rate])}
        arms += named(f"outliers-{rate}", task_config("outliers", rate), few)
    hard = task_config("easy", 0.1)
    tops = {f"top-{k}": ranked(0, k) for k in EASY_GRID}
    return [*arms, *named("easy", hard, {"mean": mean}), *named("easy", hard, tops, True)]


def named(
    start: str, tasks: Config, aggregates: dict[str, Config], validated: bool = False
) -> list[Arm]:
    """An arm for each aggregate, on the same tasks."""
    return [(f"{start}-{name}", tasks, how, validated) for name, how in aggregates.items()]


_QUICK = (
    *("clean-mean", "clean-range-5-16", "easy-mean", "easy-top-8", "labels-0.5-sg"),
    *(f"{kind}-0.5-{arm}" for kind in KINDS for arm in ("mean", "range-8-16", "oracle")),
    *(f"{kind}-0.3-{arm}" for kind in KINDS for arm in ("mean", "range-5-16")),
)


def fitting_arm(rate: float) -> str:
    """The arm that leaves out as many tasks as are noisy on average."""
    return "range-{}-{}".format(*HETROM[rate])


def task_config(kind: str, rate: float) -> Config:
    """What :func:`~metalearn_tut.claims.hetrom.tasks.training_tasks` takes: 5-way 1-shot glyphs."""
    return {"data": {"name": "glyphs"}, "kind": kind, "rate": rate, "shots": 1, "queries": 5}


def _loop(steps: int) -> Config:
    """Of all arms: the outer rate was chosen for the mean, on 300 validation tasks (one seed).

    After 220 to 240 steps, half of the tasks with random labels: 0.55 with a rate of 0.002,
    0.59 with 0.005, 0.67 with 0.01, 0.59 with 0.02; clean tasks: 0.95 with 0.005 and 0.01.
    """
    return {"steps": steps, "tasks_per_step": N, "outer_lr": 0.01}


def training_job(arm: Arm, seed: int, quick: bool, **more: Any) -> Job:
    """An arm with one seed."""
    name, tasks, how, validated = arm
    test = {"test": {**TEST, "tasks": 100} if quick else TEST}
    if validated:
        test["validation"] = {**TEST, "tasks": 50 if quick else 300, "seed": 2}
    if tasks["kind"] == "easy":
        test["easy"] = test["test"]
    config = {
        **LEARNER,
        "tasks": tasks,
        "aggregate": how,
        "training": _loop(40 if quick else 200),
        "test": test,
        "seed": seed,
        **more,
    }
    return Job(f"{name}-{seed}", config, training)
