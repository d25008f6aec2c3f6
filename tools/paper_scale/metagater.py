"""MetaGater on CIFAR-10: 100 nodes of two classes, a small gated ResNet-12. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/metagater.py --device cuda

Per seed: MetaGater with targets of 0.7, 0.5 and 0.35 of the filters, Per-FedAvg without gates, and
FedAvg with gates, 300 rounds of 20 of the 80 training nodes with four local steps each; then, on
the 20 new nodes and with 5, 10 and 20 support images, accuracy and active multiply-adds after a
step of the backbone and a step of the gates, and the same number of filters chosen by gates learned
from scratch, at random, or by size. Single precision, two seeds: planned for four hours of one GPU.
Rates are those of the study on characters. Interrupted, the same command goes on. What came out
goes to `results/paper_scale/metagater.json`; the paper's own numbers were not available to us. If
the data folder holds JPEG images, say so: `--images` is written into the result. With `--tiny` all
of it takes two minutes on a processor, measures nothing, and is written to `--out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from at_scale import complete, options
from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.metagater.filters import CHOICES, correct_by_choice
from metalearn_tut.claims.metagater.jobs import answer_task, best_rates, correct_by_node

from metalearn_tut.claims import Job, Results
from metalearn_tut.evaluation import cost
from metalearn_tut.federated import (
    Across,
    Federation,
    Partition,
    by_classes,
    per_fed_avg,
    run_rounds,
)
from metalearn_tut.gating import ChannelGatedResNet12, MetaGater
from metalearn_tut.models import ResNet12
from metalearn_tut.tasks import cifar10, from_arrays

SHAPE, CLASSES, SUPPORTS = (3, 32, 32), 10, (5, 10, 20)
TARGETS = (0.7, 0.5, 0.35)
MAIN = "gated-0.5"
OTHERS = ("dense", "fedavg")
GATES = {"inner_lr": 0.1, "gate_lr": 1.0, "sparsity": 1.0, "warmup": 0.2}


def setup(seed: int, device: str, tiny: bool) -> dict[str, Any]:
    """What all arms of a seed have in common."""
    plan = {"rounds": 300, "local_steps": 4, "fraction": 0.25, "support": 10, "query": 40}
    tiny_plan = {"rounds": 2, "local_steps": 1, "fraction": 0.1, "support": 10, "query": 10}
    return {
        "seed": seed,
        "device": device,
        "images": 2000 if tiny else 45_000,
        "nodes": 20 if tiny else 100,
        "widths": [4, 4, 8, 8] if tiny else [32, 64, 128, 256],
        "plan": {
            **(tiny_plan if tiny else plan),
            "outer_lr": 0.3,
            "gate_outer_lr": 5.0,
            "seed": seed,
        },
        "test": {"query": 20 if tiny else 100, "draws": 1 if tiny else 5, "seed": 0},
        "choices": False,
    }


def jobs(seeds: list[int], device: str, tiny: bool) -> list[Job]:
    """All arms of every seed."""
    found = []
    for seed in seeds:
        base = setup(seed, device, tiny)
        arms = {f"gated-{t}": {"gates": {**GATES, "target": t}} for t in TARGETS}
        arms[MAIN]["choices"] = True
        arms |= {"dense": {}, "fedavg": {"gates": {**GATES, "target": 0.5, "stages": []}}}
        found += [Job(f"{name}-{seed}", {**base, **arm}, federated) for name, arm in arms.items()]
    return found


def nodes(config: dict[str, Any]) -> Partition:
    """Nodes of two classes each; those that train are others with every seed."""
    data = cifar10("train")
    n = config["images"]
    source = from_arrays(data.images[:n], data.labels[:n], name="CIFAR-10")
    return by_classes(source, config["nodes"], 2, unseen=0.2, seed=0)


def federated(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train an arm, and test it on the new nodes.

    Rates of FedAvg are the best on its training nodes.
    """
    torch.manual_seed(config["seed"])
    network = ResNet12(CLASSES, config["widths"], norm="support").to(config["device"])
    whole = cost.macs(network, SHAPE)
    if "gates" in config:
        learner = MetaGater(ChannelGatedResNet12(network), **config["gates"])
    else:
        learner = per_fed_avg(network, GATES["inner_lr"])
    train, new = nodes(config)
    federation = Federation(learner, train, **config["plan"])
    run_rounds(federation, out=folder / "rounds", resume=True, save_every=10)
    if config.get("gates", {}).get("stages") == []:
        tasks = Across(train, 10, _query(config), seed=1)
        learner, _ = best_rates(learner, ((0.01, 0.1, 0.4), (0.1, 1.0, 10.0)), tasks, 16)
    n = len(new)
    found: dict[str, Any] = {"macs": {}, "answers": config["test"]["draws"] * _query(config)}
    for support in SUPPORTS:
        sampler = Across(new, support, _query(config), config["test"]["seed"])
        tasks = [sampler[i] for i in range(n * config["test"]["draws"])]
        right, macs, _ = zip(*(answer_task(learner, task) for task in tasks), strict=True)
        found[str(support)] = correct_by_node(torch.tensor(right), n, config)
        found["macs"][str(support)] = sum(macs) / len(macs) / whole
        if config["choices"]:
            each = [correct_by_choice(learner, task, i, (10.0, 10)) for i, task in enumerate(tasks)]
            for choice in CHOICES:
                counted = torch.tensor([found_[choice] for found_ in each])
                found[f"{choice} {support}"] = correct_by_node(counted, n, config)
    return found


def _query(config: dict[str, Any]) -> int:
    return config["test"]["query"]


def summary(values: dict[str, dict[str, Any]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Accuracies and multiply-adds of every arm, and paired differences over the new nodes."""
    seeds = list(dict.fromkeys(job.config["seed"] for job in jobs))
    queries = values[f"{MAIN}-{seeds[0]}"]["answers"]
    arms, rows = Arms(Results(values), seeds, queries, of="nodes"), []
    for support in map(str, SUPPORTS):
        names = [*(f"gated-{t}" for t in TARGETS), *OTHERS]
        macs = {arm: [v["macs"][support] for v in arms.values(arm)] for arm in names}
        gaps = {f"{MAIN} - {arm}": arms.minus(MAIN, arm, support).to_dict() for arm in OTHERS}
        for choice in CHOICES:
            gap = arms.minus(MAIN, MAIN, f"learned {support}", f"{choice} {support}")
            gaps[f"learned - {choice}"] = gap.to_dict()
        accuracy = {arm: arms.mean(arm, support) for arm in names}
        rows.append({"support": support, "accuracy": accuracy, "macs": macs, **gaps})
    return {"rows": rows}


def main() -> None:
    """Run what is missing, then write what came out."""
    parser = options(__doc__, "metagater")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", default="original", help="what the data folder holds")
    given = parser.parse_args()
    about = {"images": given.images, "device": given.device}
    complete("metagater", jobs, given.seeds, summary, given, **about)


if __name__ == "__main__":
    main()
