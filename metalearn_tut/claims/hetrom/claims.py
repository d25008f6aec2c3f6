"""HeTRoM: does it pay to leave the hardest tasks of a batch out, or to look at them alone?

One learner (MAML on Conv4, two inner steps from a head at zero, learned rates), trained on clean,
mislabeled or mixed tasks, is always tested on clean ones. Of the paper we know the abstract, the
tables' captions and a summary: the noise, the network and the data are ours.
"""

from __future__ import annotations

import math

from metalearn_tut.claims.hetrom.jobs import training
from metalearn_tut.claims.learners import conv4, curve, two_steps
from metalearn_tut.claims.pilots import chosen
from metalearn_tut.claims.seeds import fresh
from metalearn_tut.claims.study import Claim, Comparison, Config, Job, Study
from metalearn_tut.claims.tasks import fresh_tasks, training_tasks

N = 8  # tasks of a step
SEEDS, FEW = (0, 1, 2, 3, 4), (0, 1, 2)
STEPS = {"emoji": 2000, "mini_imagenet": 4000, "mini_imagenet_84": 4000}
WIDTH = 16
RATES = {"0.002": 0.002, "0.004": 0.004, "0.008": 0.008}  # of the outer loop
MEAN = {"name": "mean"}
GUIDED = {"name": "guided", "z_low": -10.0, "z_high": 1.0}
TOP = {"name": "range", "m": 0, "k": N // 2}
Arm = tuple[str, float, Config, str]
"""Kind of training tasks, its rate, the aggregate, and the pilot that chose its outer rate."""


def ranked(noise: float) -> Config:
    """Leaves as many of the hardest tasks out as are noisy on average, rounded up."""
    return {"name": "range", "m": math.ceil(noise * N), "k": N}


DECIDING: dict[str, Arm] = {
    "labels30-mean": ("labels", 0.3, MEAN, "labels50-mean"),
    "labels30-range": ("labels", 0.3, ranked(0.3), "labels50-range"),
    "labels50-mean": ("labels", 0.5, MEAN, "labels50-mean"),
    "labels50-range": ("labels", 0.5, ranked(0.5), "labels50-range"),
    "clean-mean": ("clean", 0.0, MEAN, "clean-mean"),
    "clean-guided": ("clean", 0.0, GUIDED, "clean-guided"),
    "mixed-mean": ("mixed", 0.1, MEAN, "clean-mean"),
    "mixed-top": ("mixed", 0.1, TOP, "mixed-top"),
}
BESIDE: dict[str, Arm] = {
    "labels50-oracle": ("labels", 0.5, {"name": "oracle"}, "labels50-mean"),
    "labels50-guided": ("labels", 0.5, GUIDED, "clean-guided"),
    "labels50-mixture": (
        "labels",
        0.5,
        {"name": "mixture", "pool": 2000, "rate": 1e-4},
        "labels50-mean",
    ),
    "flip-mean": ("flip", 0.3, MEAN, "labels50-mean"),
    "flip-range": ("flip", 0.3, ranked(0.5), "labels50-range"),
    "rand-mean": ("rand", 0.0, MEAN, "labels50-mean"),
    "rand-range": ("rand", 0.0, ranked(0.5), "labels50-range"),
}


def learner(family: str, arm: Arm, seed: int, *, steps: int, rate: float) -> Config:
    """How an arm is trained."""
    return {
        "model": conv4(WIDTH, family),
        "algorithm": two_steps(engine="vectorised"),
        "tasks": {**training_tasks(family, seed), "kind": arm[0], "rate": arm[1]},
        "training": {"steps": steps, "tasks_per_step": N, "outer_lr": rate},
        "seed": seed,
    }


def job(study: str, family: str, name: str, seed: int, quick: bool) -> Job:
    """An arm with one seed; of hard tasks there are test tasks, too."""
    arm = {**DECIDING, **BESIDE}[name]
    tests = fresh_tasks(study, family, seed, quick=quick)
    if arm[0] == "mixed":
        tests["hard"] = {**tests["test"], "within_group": True}
    steps = 10 if quick else STEPS[family]
    config = {
        "learner": learner(
            family, arm, seed, steps=steps, rate=chosen("hetrom", arm[3], RATES, "0.004")
        ),
        "aggregate": arm[2],
        "tests": tests,
    }
    return Job(f"{name}-{seed}", config, training)


def jobs(quick: bool) -> list[Job]:
    """On emoji: one seed after another, then what is reported beside the claims."""
    seeds = SEEDS[:1] if quick else SEEDS
    more = ("labels50-oracle", "rand-range") if quick else tuple(BESIDE)
    made = [job("hetrom", "emoji", name, seed, quick) for seed in seeds for name in DECIDING]
    return made + [
        job("hetrom", "emoji", name, seed, quick) for seed in seeds if seed in FEW for name in more
    ]


def jobs_mini(quick: bool) -> list[Job]:
    """On mini-ImageNet: the headline alone."""
    names = ("labels50-mean", "labels50-range")
    seeds = FEW[:1] if quick else FEW
    return [job("hetrom_mini", "mini_imagenet", n, seed, quick) for seed in seeds for n in names]


def pilots() -> list[Job]:
    """Short trainings with a seed of its own: each aggregate at three outer rates."""
    seed, made = fresh("pilot", "hetrom", 0), []
    for name in ("labels50-mean", "labels50-range", "clean-mean", "clean-guided", "mixed-top"):
        arm = DECIDING[name]
        split = {"within_group": True} if arm[0] == "mixed" else {}
        validation = {**fresh_tasks("hetrom", "emoji", seed)["validation"], **split}
        for point, rate in RATES.items():
            config = {
                "learner": learner("emoji", arm, seed, steps=800, rate=rate),
                "aggregate": arm[2],
                "tests": {"validation": validation},
            }
            made.append(Job(f"{name}-{point}", config, training))
    arm = DECIDING["clean-mean"]
    watched = {
        "learner": learner("emoji", arm, seed, steps=STEPS["emoji"], rate=RATES["0.004"]),
        "watch": fresh_tasks("hetrom", "emoji", seed)["validation"],
        "looks": 6,
    }
    return [*made, Job("curve", watched, curve)]


_OURS = "noise, network and data; that the number left out is known"
_CLAIMS = {
    "labels30": Claim(
        "With random labels in 30 % of the training tasks, the ranked range beats the mean.",
        "labels30-range",
        "labels30-mean",
        source="robustness to noisy tasks: FACT (abstract)",
        ours=_OURS,
    ),
    "labels50": Claim(
        "With random labels in 50 % of the training tasks, the ranked range beats the mean.",
        "labels50-range",
        "labels50-mean",
        source="robustness to noisy tasks: FACT (abstract)",
        ours=_OURS,
    ),
    "clean": Claim(
        "With thresholds by statistical guidance, nothing is lost where all tasks are clean.",
        "clean-guided",
        "clean-mean",
        source="that guidance finds the thresholds: SECOND-HAND; a point as nothing: ours",
        ours="the form of the log-normal model; its limit, one standard deviation",
        kind="non-inferior",
        margin=0.01,
    ),
    "mixed": Claim(
        "Where nine of ten training tasks are easy, the hardest half alone gains on hard ones.",
        "mixed-top",
        "mixed-mean",
        "hard",
        source="different difficulties of tasks: FACT (abstract); this test of it: ours",
        ours="what is hard: five classes of one subgroup; that half of the tasks are looked at",
    ),
}
_REPORTED = (
    Comparison("50 % noise: mean of the clean tasks - ranked range", "labels50-oracle",
               "labels50-range"),
    Comparison("50 % noise: guidance - mean", "labels50-guided", "labels50-mean"),
    Comparison("50 % noise: TR-MAML's mixture on a pool of 2,000 tasks - mean", "labels50-mixture",
               "labels50-mean"),
    Comparison("wrong labels in every task (30 %): range - mean", "flip-range", "flip-mean"),
    Comparison("a share of wrong labels for each task: range - mean", "rand-range", "rand-mean"),
)  # fmt: skip
PAPER = (
    "Z. Si, S. Hu, K. Ji, S. Lyu, Meta-Learning with Heterogeneous Tasks, 2024, arXiv:2410.18894"
)
_PILOT = (
    "Outer rates of 0.002, 0.004 and 0.008 for each aggregate, in 800 steps; 50 % noise stands for "
    "all kinds of noise. A training of all steps shows how flat its end is."
)
STUDIES: dict[str, Study] = {
    "hetrom": Study(
        "hetrom",
        PAPER,
        "emoji by artist, 5-way 1-shot",
        SEEDS,
        tuple(_CLAIMS.values()),
        jobs,
        hours=4.9,
        pilot=_PILOT,
        pilots=pilots,
        reported=_REPORTED,
        reported_seeds=FEW,
    ),
    "hetrom_mini": Study(
        "hetrom_mini",
        PAPER,
        "mini-ImageNet at 42×42, 5-way 1-shot",
        FEW,
        (_CLAIMS["labels50"],),
        jobs_mini,
        hours=1.5,
        pilot="Rates as on emoji.",
    ),
}
