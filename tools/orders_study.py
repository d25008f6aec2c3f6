"""MAML, first-order MAML and ANIL on emoji, five trainings each: ``python tools/orders_study.py``.

Chapter 2 shows what came out. A seed is a start, an order of training tasks and test tasks of its
own, which the three share. The inner step size is chosen for each on validation tasks, from the
same three, by a short training with a seed of its own. Jobs that are there are not run again; two
processes may share the work, one with ``--seeds 0 1 2`` and one with ``--seeds 3 4``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import MAML, evaluate, meta_train, models, tasks
from metalearn_tut.claims.seeds import fresh
from metalearn_tut.evaluation import interval
from metalearn_tut.files.provenance import write_result

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "book" / "orders.json"
COPY = ROOT / "metalearn_tut" / "nb" / "orders.json"
ARMS: dict[str, dict[str, Any]] = {
    "MAML": {},
    "FOMAML": {"first_order": True},
    "ANIL": {"groups": [["head.weight", "head.bias"]]},
}
RATES, PILOT, PILOT_STEPS = (0.1, 0.2, 0.4), 90, 150
SEEDS, STEPS, TEST_TASKS = (0, 1, 2, 3, 4), 500, 600
TASK = {"ways": 5, "shots": 1, "queries": 4}


def trained(arm: str, inner_lr: float, seed: int, steps: int) -> MAML:
    """One learner: same start and same tasks for every arm of a seed."""
    torch.manual_seed(seed)
    network = models.Conv4(in_channels=3, ways=5, width=8, norm="support", image_size=32)
    options = {"zero_head": True, "rate_mode": "per_layer_and_step", "engine": "vectorised"}
    learner = MAML(network, inner_lr, inner_steps=2, **options, **ARMS[arm])
    sampler = tasks.emoji("train").sampler(**TASK, seed=fresh("train", "orders", seed))
    outer = {"steps": steps, "tasks_per_step": 4, "outer_lr": 4e-3, "progress": False}
    meta_train(learner, sampler, **outer)
    return learner


def job(folder: Path, arm: str, inner_lr: float, seed: int) -> dict[str, Any]:
    """Train and judge one learner, or read what it was judged before."""
    path = folder / f"{arm}-{inner_lr}-{seed}.json"
    if not path.exists():
        pilot = seed == PILOT
        split, n_tasks = ("validation", 300) if pilot else ("test", TEST_TASKS)
        steps = PILOT_STEPS if pilot else STEPS
        sampler = tasks.emoji(split).sampler(**TASK, seed=fresh(split, "orders", seed))
        found = evaluate(trained(arm, inner_lr, seed, steps), sampler, n_tasks)
        config = {"arm": arm, "inner_lr": inner_lr, "seed": seed, "steps": steps, "split": split}
        write_result(path, config=config, values={"accuracy": found.values.tolist()})
        print(f"{path.stem}: {found}", flush=True)
    return json.loads(path.read_text("utf-8"))


def chosen(folder: Path) -> dict[str, float]:
    """For each arm the inner step size that was best on validation tasks."""
    found = {a: {r: job(folder, a, r, PILOT) for r in RATES} for a in ARMS}
    mean = {
        a: {r: statistics.fmean(_accuracies(j)) for r, j in v.items()} for a, v in found.items()
    }
    return {arm: max(rates, key=rates.get) for arm, rates in mean.items()}


def values_of(jobs: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracies of every training, and differences to MAML: over seeds, and over tasks."""
    accuracy = {
        arm: {str(seed): statistics.fmean(_accuracies(found)) for seed, found in by_seed.items()}
        for arm, by_seed in jobs.items()
    }
    differences = {}
    for arm in list(jobs)[1:]:
        shared = sorted(jobs[arm].keys() & jobs["MAML"].keys())
        pairs = [[torch.tensor(_accuracies(jobs[a][s])) for a in (arm, "MAML")] for s in shared]
        each = [mine - theirs for mine, theirs in pairs]
        differences[f"{arm} - MAML"] = {
            "seeds": [row.mean().item() for row in each],
            "over_tasks": interval(torch.cat(each))[1],
            "tasks": sum(map(len, each)),
        }
    return {"accuracy": accuracy, "differences": differences}


def _accuracies(found: dict[str, Any]) -> list[float]:
    return found["values"]["accuracy"]


def main() -> None:
    """Run the jobs of some seeds; with those of all seeds there, write the result and its copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--jobs", type=Path, default=ROOT / "build" / "orders")
    given = parser.parse_args()
    given.jobs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rates = chosen(given.jobs)
    for seed in given.seeds:
        for arm in ARMS:
            job(given.jobs, arm, rates[arm], seed)
    there = {a: {s: given.jobs / f"{a}-{rates[a]}-{s}.json" for s in SEEDS} for a in ARMS}
    if all(path.exists() for paths in there.values() for path in paths.values()):
        jobs = {
            a: {s: json.loads(p.read_text("utf-8")) for s, p in v.items()} for a, v in there.items()
        }
        commits = sorted({found["commit"] for v in jobs.values() for found in v.values()})
        config = {"command": "python tools/orders_study.py", "seeds": SEEDS, "steps": STEPS}
        config |= {"inner_lr": rates, "test_tasks": TEST_TASKS, "trained_at": commits}
        RESULT.parent.mkdir(exist_ok=True)
        write_result(RESULT, config=config, values=values_of(jobs))
        COPY.write_text(json.dumps(values_of(jobs), indent=1) + "\n", "utf-8")
        print(RESULT, COPY, sep="\n")


if __name__ == "__main__":
    main()
