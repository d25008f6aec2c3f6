"""MetaGater: do gates that are meta-learned with their backbone fit a new node in a step each?

Conv4-16 is meta-learned over nodes of five classes each, by averages of local steps, and tested on
nodes whose classes (emoji) or images (CIFAR-10) nobody has seen; the unit of the interval over
tasks is the node. All arms have as many rounds. Of the paper we know the abstract alone.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.metagater.jobs import federated
from metalearn_tut.claims.pilots import chosen
from metalearn_tut.claims.seeds import fresh
from metalearn_tut.claims.study import Claim, Comparison, Config, Job, Study

SEEDS, FEW = (0, 1, 2, 3, 4), (0, 1, 2)
ROUNDS, CLIENTS = 160, 12
NODES = {"emoji": 100, "cifar10": 90}
NEW = {  # new nodes of a deal, deals, images of the support and query set, draws from a node
    "emoji": {"nodes": 42, "deals": 4, "support": 10, "query": 15, "draws": 2},
    "cifar10": {"nodes": 40, "deals": 4, "support": 25, "query": 50, "draws": 2},
}
SIZES = {"emoji": (10, 15), "cifar10": (25, 25)}  # of a task in training
RATES = {"0.15": 0.15, "0.3": 0.3, "0.6": 0.6}  # of the local steps
KEPT = 11 / 16  # of the filters, statically: 0.55 of the multiply-adds
GATES: Config = {"gate_lr": 1.0, "sparsity": 1.0, "target": 0.7, "warmup": 0.2}
MOST = {"ungated": 1.0, "gated": 0.5, "joint": 0.5}  # of the multiply-adds
JOINT: Config = {**GATES, "stages": ["joint"], "backbone_gates": "learned"}
ARMS: dict[str, Config | None] = {"ungated": None, "gated": GATES, "joint": JOINT, "static": None}


def training(
    family: str, arm: str, seed: int, *, rounds: int = ROUNDS, rate: float | None = None
) -> Config:
    """How an arm is trained; the static one is pruned when half of the rounds are over."""
    if arm == "static":
        start = training(family, "ungated", seed, rounds=rounds // 2)
        rest = training(family, "ungated", seed, rounds=rounds - rounds // 2)
        later = {**rest["plan"], "seed": fresh("train", f"{family} nodes later", seed)}
        return {**rest, "plan": later, "start": start, "kept": KEPT}
    support, query = SIZES[family]
    rate = chosen("metagater", arm, RATES, "0.3", most_macs=MOST[arm]) if rate is None else rate
    config: dict[str, Any] = {
        "data": family,
        "width": 16,
        "inner_lr": 0.1,
        "nodes": NODES[family],
        "plan": {
            "rounds": rounds,
            "local_steps": 4,
            "fraction": CLIENTS / NODES[family],
            "support": support,
            "query": query,
            "outer_lr": rate,
            "gate_outer_lr": 5.0,
            "seed": fresh("train", f"{family} nodes", seed),
        },
        "seed": seed,
    }
    gates = ARMS[arm]
    return {**config, "gates": gates} if gates else config


def job(study: str, family: str, arm: str, seed: int, quick: bool = False) -> Job:
    """An arm with one seed."""
    few, owner = ({"nodes": 5, "deals": 1}, f"{study} quick") if quick else ({}, study)
    new = {**NEW[family], **few, "split": "test", "seed": fresh("test", owner, seed)}
    rounds = 4 if quick else ROUNDS
    config = {"training": training(family, arm, seed, rounds=rounds), "tests": {"test": new}}
    return Job(f"{arm}-{seed}", config, federated)


def jobs(quick: bool) -> list[Job]:
    """On emoji: one seed after another."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [job("metagater", "emoji", arm, seed, quick) for seed in seeds for arm in ARMS]


def jobs_cifar10(quick: bool) -> list[Job]:
    """On CIFAR-10."""
    seeds = FEW[:1] if quick else FEW
    return [job("metagater_cifar10", "cifar10", a, seed, quick) for seed in seeds for a in ARMS]


def pilots() -> list[Job]:
    """A seed of its own, half of the rounds: three rates for each way to train."""
    seed, made = fresh("pilot", "metagater", 0), []
    new = {**NEW["emoji"], "nodes": 18, "split": "validation", "seed": seed}
    for arm in ("ungated", "gated", "joint"):
        for point, rate in RATES.items():
            config = training("emoji", arm, seed, rounds=ROUNDS // 2, rate=rate)
            whole = {"training": config, "tests": {"validation": new}}
            made.append(Job(f"{arm}-{point}", whole, federated))
    return made


_OURS = "the gates, their price, the rounds, what a node is: all but two stages of one step"
CLAIMS = (
    Claim(
        "With half of the multiply-adds, gated networks fit new nodes as well as whole ones.",
        "gated",
        "ungated",
        source="FACT (abstract), but for half, and two points as nothing: ours",
        ours=_OURS,
        kind="non-inferior",
        margin=0.02,
        most_macs=0.5,
    ),
    Claim(
        "Gates are better than filters that are removed for good, with no fewer multiply-adds.",
        "gated",
        "static",
        source="FACT (abstract); this comparison: RECONSTRUCTION",
        ours=_OURS,
    ),
    Claim(
        "Two stages, the backbone first, are better than one joint step.",
        "gated",
        "joint",
        source="the two stages: FACT (abstract); this comparison: ours",
        ours=_OURS,
    ),
)
_REPORTED = (
    Comparison("removed for good - ungated", "static", "ungated"),
    Comparison("gates - as many filters by chance", "gated", "gated", "test", "random"),
    Comparison("gates - one choice for all images of a task", "gated", "gated", "test", "average"),
)
PAPER = (
    "S. Lin, L. Yang, Z. He, D. Fan, J. Zhang, MetaGater: Fast Learning of Conditional Channel "
    "Gated Networks via Federated Meta-Learning, 2020, arXiv:2011.12511"
)
STUDIES: dict[str, Study] = {
    "metagater": Study(
        "metagater",
        PAPER,
        "emoji by artist, nodes of five classes, two images each",
        SEEDS,
        CLAIMS,
        jobs,
        hours=1.4,
        pilot="Rates of the local steps of 0.15, 0.3 and 0.6 for each way to train, in half of the "
        "rounds; gates that take more than half of the multiply-adds are not chosen.",
        pilots=pilots,
        reported=_REPORTED,
    ),
    "metagater_cifar10": Study(
        "metagater_cifar10",
        PAPER,
        "CIFAR-10, nodes of five classes, five images each",
        FEW,
        CLAIMS,
        jobs_cifar10,
        hours=1.4,
        pilot="Rates as on emoji.",
        reported=_REPORTED,
    ),
}
