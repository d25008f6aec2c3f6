"""Side by side: small few-shot learners of several methods, on the same tasks.

All have 4,500 steps of 4 training tasks in all (those that are pruned 3,000, and 1,500 after the
rounds; a teacher as many again), one image of a class, and the same test tasks. What is deployed
for a task is counted. No paper compares these methods: what is decided here is what we expect.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.anp import claims as anp
from metalearn_tut.claims.anp.jobs import filters, pruned
from metalearn_tut.claims.compact.jobs import alone, taught
from metalearn_tut.claims.learners import conv4
from metalearn_tut.claims.study import Claim, Comparison, Config, Job, Study
from metalearn_tut.claims.tasks import fresh_tasks
from metalearn_tut.claims.tsmd import claims as tsmd

SEEDS = (0, 1, 2, 3, 4)
BEFORE, AFTER = 3000, 1500  # steps before and after pruning
MAMLS, PROTOTYPES = {"maml8": 8, "maml16": 16}, {"proto8": 8, "proto32": 32}
SCHEDULES = {  # shares removed in each round, and the part of the later steps after it
    "maml32": ([0.0], [1.0]),
    "anp50": ([0.5], [1.0]),
    "anp75": ([0.5, 0.25], [0.4, 0.6]),
    "anp90": ([0.5, 0.25, 0.15], [0.2, 0.2, 0.6]),
}
GATES: Config = {
    "name": "metagater",
    "inner_lr": 0.1,
    "gate_lr": 1.0,
    "stages": ["backbone", "backbone", "gates"],
    "sparsity": 1.0,
    "target": None,
    "warmup": 0.2,
}
ARMS = (*MAMLS, *PROTOTYPES, *SCHEDULES, "filters", "tsmd", "tsmd-anp50", "gated")


def job(arm: str, seed: int, quick: bool = False) -> Job:
    """An arm with one seed."""
    config, run = _made(arm, seed, 0.01 if quick else 1.0)
    tests = fresh_tasks("compact", "emoji", seed, quick=quick)
    return Job(f"{arm}-{seed}", {**config, "tests": {"test": tests["test"]}}, run)


def _made(arm: str, seed: int, share: float) -> tuple[Config, Any]:
    """The configuration of an arm, with a share of its steps, and what does it."""
    before, after = int(BEFORE * share), int(AFTER * share)
    if arm in SCHEDULES:
        schedule, parts = SCHEDULES[arm]
        return _pruned(seed, before, schedule, [int(after * p) for p in parts]), pruned
    if arm == "filters":
        return {**_pruned(seed, before, [0.5], [after]), "keep": 0.5}, filters
    if arm.startswith("tsmd"):
        steps = before if arm == "tsmd-anp50" else before + after
        student = tsmd.student("emoji", seed, steps=steps)
        config = tsmd.guided_by("emoji", "tsmd", student, seed, share < 1)
        rounds = _pruned(seed, before, [0.5], [after]) if arm == "tsmd-anp50" else {}
        parts = ("schedule", "criterion", "retrain")
        return {**config, **{n: rounds[n] for n in parts if n in rounds}}, taught
    return {"learner": _alone(arm, seed, before + after)}, alone


def _pruned(seed: int, before: int, schedule: list[float], after: list[int]) -> Config:
    """The dense learner of ANP's study, pruned in rounds or trained on."""
    later = anp.job("anp", "emoji", "anp", seed).config["retrain"]
    return {
        "learner": anp.dense("emoji", seed, before),
        "schedule": schedule,
        "criterion": anp.criterion("anp") if sum(schedule) else None,
        "retrain": {**later, "steps": after},
    }


def _alone(arm: str, seed: int, steps: int) -> Config:
    """A learner that is trained outright."""
    base = anp.dense("emoji", seed, steps)
    if arm in MAMLS:
        return tsmd.student("emoji", seed, MAMLS[arm], steps=steps, engine="vectorised")
    if arm in PROTOTYPES:
        return {
            **base,
            "model": conv4(PROTOTYPES[arm], "emoji"),
            "algorithm": {"name": "protonet"},
        }
    rates = {"blocks": 0.002, "head": 0.002, "gates": 0.01}
    return {
        **base,
        "model": {**conv4(anp.WIDTH, "emoji"), "name": "ChannelGatedConv4"},
        "algorithm": GATES,
        "training": {**base["training"], "outer_lr": rates},
    }


def jobs(quick: bool) -> list[Job]:
    """All learners, one seed after another."""
    if quick:
        return [job(arm, 0, True) for arm in ("maml8", "proto8", "anp75", "tsmd-anp50", "gated")]
    return [job(arm, seed) for seed in SEEDS for arm in ARMS]


_OURS = "all of it: no paper compares these"
CLAIMS = (
    Claim(
        "Prune a wide learner by ANP rather than train a narrow one of about as many bytes.",
        "anp75",
        "maml16",
        source="ours",
        ours=_OURS,
    ),
    Claim(
        "Let a teacher guide a small student in every task.",
        "tsmd",
        "maml8",
        source="ours",
        ours=_OURS,
    ),
    Claim(
        "Prototypes lose nothing against MAML on the same network.",
        "proto32",
        "maml32",
        source="ours",
        ours=_OURS,
        kind="non-inferior",
        margin=0.01,
    ),
    Claim(
        "A student that was taught can lose half of its weights.",
        "tsmd-anp50",
        "tsmd",
        source="ours",
        ours=_OURS,
        kind="non-inferior",
        margin=0.02,
    ),
)
_REPORTED = tuple(
    Comparison(f"{arm} - Conv4-32 by MAML", arm, "maml32")
    for arm in ("anp50", "anp75", "anp90", "filters", "gated")
)
STUDIES: dict[str, Study] = {
    "compact": Study(
        "compact",
        "The methods of this book side by side",
        "emoji by artist, 5-way 1-shot",
        SEEDS,
        CLAIMS,
        jobs,
        hours=4.4,
        pilot="Settings are those of the studies of ANP and TSMD; prototypes and gates have the "
        "outer rate of the dense learner, gates five times as much.",
        reported=_REPORTED,
    ),
}
