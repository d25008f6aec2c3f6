"""The arms of the ABP study: equal epochs, equal schedules, one tuning, and the jobs of them all.

An arm of a seed goes through the same stages: ``gates`` (its first training, with or without
gates), as many rounds of distillation as ABP prunes blocks, and ``final``; each stage goes down
half a cosine. Those on which filters are pruned have more rounds and a stage ``narrow``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from metalearn_tut import block_voting
from metalearn_tut.claims.abp import jobs as work
from metalearn_tut.claims.study import Config, Job, Values
from metalearn_tut.models import CifarResNet

RATIO, DEEPER = 0.4, 0.6  # blocks that go: alone, and before filters do
KEPT = 0.25  # share of the filters that stay, in every convolution
RATES = {"gates": 0.1, "round": 0.02, "final": 0.1, "narrow": 0.1}
GRID = {"0.5": 0.5, "1.0": 1.0, "2.0": 2.0}  # times the rates of all stages after the first
EARLY, LATE = ("abp", "random", "unpruned", "scratch"), ("filters", "longer")
TUNED = (*EARLY, *LATE)
OTHERS = ("mean", "undistilled", "oneshot")  # reported, at the rates of "abp"
VOTING: dict[str, Config] = {
    "abp": {},
    "random": {"rule": "random"},
    "mean": {"rule": "mean"},
    "undistilled": {"kd_weight": 0.0},
    "oneshot": {"rule": "bottom_q"},
}
_EMOJI_CLASSES = 300
EMOJI: Config = {
    "data": {"name": "emoji", "classes": _EMOJI_CLASSES},
    "classes": _EMOJI_CLASSES,
    "depth": 20,
    "gate": "soft1",
    "batch": 64,
    "weight_decay": 5e-4,
    "augment": {"padding": 4, "flip": False},
    "rates": RATES,
    "device": "cpu",
}
CIFAR: Config = {
    "data": {"name": "cifar10", "train": 45_000, "validation": 5_000, "test": 10_000},
    "classes": 10,
    "depth": 20,
    "gate": "soft1",
    "batch": 250,
    "weight_decay": 5e-4,
    "augment": {"padding": 4, "flip": True},
    "rates": RATES,
    "device": "cuda",
}


def epochs_of(n: int) -> dict[str, int]:
    """Epochs of each stage, where the first training has ``n``; of a round, one or two."""
    return {"gates": n, "round": 1 + (n >= 24), "final": n, "narrow": n}


def setup_of(base: Config, epochs: int, seed: int, judge: str = "test") -> Config:
    """What all arms of a seed share; ``judge`` names the images that decide."""
    return {**base, "epochs": epochs_of(epochs), "seed": seed, "judge": judge}


def budgets(setup: Config) -> tuple[int, int]:
    """How many blocks go at both ratios."""
    network = CifarResNet(setup["depth"])
    return block_voting.block_budget(network, RATIO), block_voting.block_budget(network, DEEPER)


def waves(
    setup: Config, factors: Mapping[str, float], others: Sequence[str] = (), name: str = ""
) -> list[list[Job]]:
    """The jobs of a seed in three parts, each of which needs the ones before.

    Parameters
    ----------
    setup : dict
        See :func:`setup_of`.
    factors : mapping of str to float
        What the rates of an arm are multiplied by, for each of those wanted.
    others : sequence of str
        Arms that are reported only.
    name : str
        Put before the names of the jobs that depend on the factors.
    """
    few, many = budgets(setup)
    seed = setup["seed"]
    first = _job("gates", seed, {"setup": setup}, work.gates)
    alone = _job("alone", seed, {"setup": setup}, work.alone)
    found: dict[str, Job] = {}

    def add(arm: str, run: Callable[[Config, Path], Values], after: Job, **config: object) -> None:
        factor = factors.get(arm, factors.get("abp", 1.0))
        whole = {"setup": setup, "factor": factor, "after": _named(after), **config}
        found[arm] = _job(f"{name}{arm}", seed, whole, run)

    for arm in [arm for arm in VOTING if arm in factors or arm in others]:
        voting = {**VOTING[arm], "per_round": few if arm == "oneshot" else 1}
        add(arm, work.pruned, first, voting=voting, n_prune=few)
    add("unpruned", work.unpruned, alone, rounds=few)
    second = list(found)
    ours, whole = found["abp"], found["unpruned"]
    add("scratch", work.scratch, ours, taught=_named(first))
    add("filters", work.filters, ours, n_prune=many, kept=KEPT, voting={})
    add("longer", work.longer, whole, rounds=many - few)
    parts = [[first, alone], [found[arm] for arm in second], []]
    parts[2] = [job for arm, job in found.items() if arm not in second and arm in factors]
    return parts


def pilot(base: Config, epochs: int, seed: int) -> list[Job]:
    """Every tuned arm with every factor of the grid, on validation images alone.

    A job is called ``ARM-FACTOR``. Those that go on from an arm do so at the same factor.
    """
    setup = setup_of(base, epochs, seed, "validation")
    found = [waves(setup, dict.fromkeys(TUNED, f), name=f"pilot-{f}-") for f in GRID.values()]
    made = [job for part in (1, 2) for each in found for job in each[part]]
    return [replace(job, name=_short(job.name)) for job in (*found[0][0], *made)]


def _short(name: str) -> str:
    """Of ``pilot-FACTOR-ARM-SEED``: ``ARM-FACTOR``; of ``STAGE-SEED``: ``STAGE``."""
    *factor, arm, _ = name.split("-")
    return "-".join([arm, *factor[1:]])


def study(
    base: Config,
    epochs: int,
    seeds: Sequence[int],
    few: Sequence[int],
    factors: Mapping[str, float],
) -> list[Job]:
    """The study's jobs, those that others need first, then the claims' in their order.

    Arms that are only reported are trained with the ``few`` seeds.
    """
    found = [waves(setup_of(base, epochs, s), factors, OTHERS if s in few else ()) for s in seeds]
    shared = [job for first, _, _ in found for job in first]
    arms = [job for _, second, third in found for job in (*second, *third)]
    turn = {arm: place for place, arms in enumerate((EARLY, LATE, OTHERS)) for arm in arms}
    return [*shared, *sorted(arms, key=lambda job: turn[job.name.rpartition("-")[0]])]


def needs(job: Job) -> set[str]:
    """The jobs from which one goes on, as their configurations call them."""
    return {job.config[how]["job"] for how in ("after", "taught") if how in job.config}


def _job(name: str, seed: int, config: Config, run: Callable[[Config, Path], Values]) -> Job:
    return Job(f"{name}-{seed}", {"name": f"{name}-{seed}", **config}, run)


def _named(job: Job) -> Config:
    return {"job": job.config["name"], "config": job.config}
