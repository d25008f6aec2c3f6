"""ANP: can a meta-trained network lose 85 % of its weights and learn new tasks as before?

The learner is MAML on Conv4-32 with two inner steps from a head at zero and learned rates. All arms
of a seed start from the same dense learner and have the same training on the same tasks after each
round of pruning; the weights that stay compensate in all of them, unless it is said that they do
not. What we know of the paper is its abstract and the authors' code.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.anp.jobs import before, filters, pruned
from metalearn_tut.claims.learners import conv4, two_steps
from metalearn_tut.claims.pilots import chosen
from metalearn_tut.claims.seeds import fresh
from metalearn_tut.claims.study import Claim, Comparison, Config, Job, Study
from metalearn_tut.claims.tasks import fresh_tasks, training_tasks

SEEDS, FEW = (0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2)
STEPS = {"emoji": 3000, "mini_imagenet": 4500, "mini_imagenet_84": 4500}
ROUNDS = {
    "emoji": (300, 300, 900),
    "mini_imagenet": (400, 400, 1200),
    "mini_imagenet_84": (400, 400, 1200),
}  # training after each
SCHEDULE, MORE = (0.45, 0.25, 0.15), (0.05, 0.05)
WIDTH = 32
RATES = {"0.001": 0.001, "0.002": 0.002, "0.004": 0.004}  # of the outer loop, after each round
KEEP = {"filters-macs": 18 / 32, "filters-bytes": 14 / 32}  # as ANP's arm: 1.27 M, 25.7 kB
COMPENSATED, PLAIN = ("anp", "lobs"), ("anp-plain", "lobs-plain")
BESIDE = (*PLAIN, "magnitude", "snip", "meta_snip", "random", *KEEP, "curve")
ARMS = ("dense", "anp", "lobs", "before", *BESIDE)


def dense(family: str, seed: int, steps: int | None = None) -> Config:
    """The dense learner of a seed, which other studies have, too."""
    return {
        "model": conv4(WIDTH, family),
        "algorithm": two_steps(),
        "tasks": training_tasks(family, seed),
        "training": {"steps": steps or STEPS[family], "tasks_per_step": 4, "outer_lr": 0.002},
        "seed": seed,
    }


def ordinary(family: str, seed: int, width: int = WIDTH, steps: int | None = None) -> Config:
    """A classifier of all training classes, which other studies have, too."""
    lengths = {"steps": steps or STEPS[family], "batch": 64, "lr": 0.003}
    return {"model": conv4(width, family), "data": family, **lengths, "seed": seed}


def job(
    study: str, family: str, arm: str, seed: int, quick: bool = False, rate: float | None = None
) -> Job:
    """An arm with one seed."""
    rounds = [4] * 3 if quick else [*ROUNDS[family]]
    steps = 20 if quick else None
    tests = fresh_tasks(study, family, seed, quick=quick)
    usual = "dense" if arm == "dense" else "anp"
    rate = chosen("anp", usual, RATES, "0.002") if rate is None else rate
    config: dict[str, Any] = {
        "learner": dense(family, seed, steps),
        "schedule": [*SCHEDULE],
        "criterion": criterion(arm),
        "retrain": {"steps": rounds, "tasks_per_step": 4, "outer_lr": rate},
        "tests": tests,
    }
    if arm in KEEP:
        return Job(f"{arm}-{seed}", {**config, "keep": KEEP[arm]}, filters)
    if arm == "before":
        config["ordinary"] = ordinary(family, seed, steps=steps)
        return Job(f"{arm}-{seed}", config, before)
    if arm == "curve":
        config["schedule"] += MORE
        config["retrain"]["steps"] = [*rounds, rounds[0], rounds[0]]
        shares = ("0.45", "0.70", "0.85", "0.90", "0.95")
        config["along"] = dict.fromkeys(shares, tests["test"])
    return Job(f"{arm}-{seed}", config, pruned)


def criterion(arm: str) -> Config | None:
    """Which weights go, and whether the others compensate; None for the dense arm."""
    if arm == "dense":
        return None
    method = {"before": "lobs", "curve": "anp"}.get(arm, arm.removesuffix("-plain"))
    compensate = arm not in PLAIN
    return {"method": method, "compensate": compensate, "spare": ["blocks.0.conv"]}


def jobs(quick: bool) -> list[Job]:
    """On emoji: one seed after another, then what is reported beside the claims."""
    arms = ("dense", "anp", "lobs", "before")
    if quick:
        return [job("anp", "emoji", arm, 0, True) for arm in (*arms, "filters-macs")]
    made = [job("anp", "emoji", arm, seed) for seed in SEEDS for arm in arms]
    return made + [job("anp", "emoji", arm, seed) for seed in FEW for arm in BESIDE]


def jobs_mini(quick: bool) -> list[Job]:
    """On mini-ImageNet: the headline alone."""
    seeds = FEW[:1] if quick else FEW
    arms = ("dense", "anp")
    return [job("anp_mini", "mini_imagenet", arm, seed, quick) for seed in seeds for arm in arms]


def pilots() -> list[Job]:
    """A seed of its own: three outer rates after each round, for the dense arm and for ANP."""
    seed, made = fresh("pilot", "anp", 0), []
    for arm in ("dense", "anp"):
        for point, rate in RATES.items():
            whole = job("anp", "emoji", arm, seed, rate=rate)
            tests = {"validation": whole.config["tests"]["validation"]}
            made.append(Job(f"{arm}-{point}", {**whole.config, "tests": tests}, pruned))
    return made


_OURS = "the network, the schedule of rounds and the training after each; the data"
_CLAIMS = {
    "parity": Claim(
        "85 % of the weights can go without affecting fast adaptation.",
        "anp",
        "dense",
        source="FACT (abstract); that a point is nothing: ours",
        ours=_OURS,
        kind="non-inferior",
        margin=0.01,
    ),
    "before": Claim(
        "It is better than to prune an ordinary network and then meta-train what is left.",
        "anp",
        "before",
        source="FACT (abstract)",
        ours="the ordinary network knows all training classes; " + _OURS,
    ),
    "adapted": Claim(
        "Scores at adapted weights choose better than scores where adaptation starts.",
        "anp",
        "lobs",
        source="the idea: FACT (abstract); that it shows here: RECONSTRUCTION",
        ours=_OURS,
    ),
}
_OTHERS = {
    "magnitude": "size",
    "snip": "SNIP",
    "meta_snip": "Meta-SNIP",
    "random": "chance",
    "filters-macs": "whole filters, as many multiply-adds",
    "filters-bytes": "whole filters, as many bytes",
}
_REPORTED = (
    Comparison("the same without compensation: adapted - start", "anp-plain", "lobs-plain"),
    Comparison("ANP: with compensation - without", "anp", "anp-plain"),
    *(Comparison(f"ANP - {text}", "anp", arm) for arm, text in _OTHERS.items()),
    *(
        Comparison(f"{share} of the weights removed - dense", "curve", "dense", share, "test")
        for share in ("0.45", "0.70", "0.90", "0.95")
    ),
)
PAPER = (
    "D. Gao, X. He, Z. Zhou, Y. Tong, L. Thiele, Pruning Meta-Trained Networks for On-Device "
    "Adaptation, CIKM 2021, doi:10.1145/3459637.3482378"
)
STUDIES: dict[str, Study] = {
    "anp": Study(
        "anp",
        PAPER,
        "emoji by artist, 5-way 1-shot",
        SEEDS,
        tuple(_CLAIMS.values()),
        jobs,
        hours=5.7,
        pilot="Outer rates of 0.001, 0.002 and 0.004 after each round, for the dense arm and ANP; "
        "all arms that prune have ANP's.",
        pilots=pilots,
        reported=_REPORTED,
        reported_seeds=FEW,
    ),
    "anp_mini": Study(
        "anp_mini",
        PAPER,
        "mini-ImageNet at 42×42, 5-way 1-shot",
        FEW,
        (_CLAIMS["parity"],),
        jobs_mini,
        hours=1.6,
        pilot="Rates as on emoji.",
    ),
}
