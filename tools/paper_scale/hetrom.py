"""HeTRoM on mini-ImageNet, Conv4, 5-way 1-shot and 5-shot, 30 % of the tasks noisy. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/hetrom.py --device cuda

Mean, ranked range and statistical guidance (by the batch's own losses, and by those of clean
validation tasks), two seeds each: 15,000 steps of 16 tasks (as many
tasks as MAML's 60,000 steps of 4) of five inner steps, then 600 clean test tasks, the same for
all. Each run ends as one JSON file in `runs/paper_scale/hetrom`; interrupted, the same command
goes on. Accuracies and paired differences go to `results/paper_scale/hetrom_1shot.json` and
`hetrom_5shot.json`. With `--tiny` all of it takes a minute on a processor, measures nothing, and
is written to `--out` only.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from at_scale import MAML, complete, engine, options
from metalearn_tut.claims.arms import Arms

from metalearn_tut.claims import Job, Results
from metalearn_tut.claims.hetrom.jobs import training
from metalearn_tut.evaluation.intervals import interval

SEEDS, QUERIES, RATE, N = (0, 1), 15, 0.3, 16
ARMS = {
    "mean": {"name": "mean"},
    "hetrom": {"name": "range", "m": 5, "k": N},
    "sg": {"name": "guided"},
    "sg_clean": {"name": "guided", "z_low": None, "z_high": 2},  # by losses of validation tasks
}


def config(arm: str, seed: int, shots: int, device: str, tiny: bool) -> dict[str, Any]:
    """All that decides one run."""
    size = 16 if tiny else 84
    model = {"name": "Conv4", "in_channels": 3, "ways": 5, "width": 4 if tiny else 32}
    queries = 2 if tiny else QUERIES
    data = {"name": "mini_imagenet", "size": size}
    aggregate = ARMS[arm]
    if arm == "sg_clean":
        clean = {"data": data, "shots": shots, "queries": queries, "tasks": 16, "every": 25}
        aggregate = {**aggregate, "clean": {**clean, "seed": 77}}
    return {
        "model": {**model, "norm": "support", "image_size": size},
        "algorithm": {**MAML, "engine": engine(device)},
        "tasks": {
            "data": data,
            "kind": "labels",
            "rate": RATE,
            "shots": shots,
            "queries": queries,
        },
        "aggregate": aggregate,
        "training": {"steps": 4 if tiny else 15_000, "tasks_per_step": N, "outer_lr": 1e-3},
        "test": {"test": {"tasks": 10 if tiny else 600, "queries": queries, "seed": 1}},
        "seed": seed,
        "device": device,
    }


def jobs(shots: int, device: str, tiny: bool) -> list[Job]:
    """All arms of one seed, then of the next."""
    run = functools.partial(training, progress=True)
    pairs = [(arm, seed) for seed in SEEDS for arm in ARMS]
    return [Job(f"{arm}-{s}", config(arm, s, shots, device, tiny), run) for arm, s in pairs]


def summary(values: dict[str, dict[str, Any]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Accuracy of each arm and seed, and what each differs from the mean objective by."""
    arms = Arms(Results(values), SEEDS, 5 * jobs[0].config["tasks"]["queries"])
    return {
        "accuracy": {arm: [interval(row) for row in arms.accuracy(arm)] for arm in ARMS},
        "minus_mean": {arm: arms.minus(arm, "mean").to_dict() for arm in ARMS if arm != "mean"},
    }


def main() -> None:
    """Run what is missing, then write what came out."""
    parser = options(__doc__, "hetrom")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    given = parser.parse_args()
    for shots in given.shots:
        complete(f"hetrom_{shots}shot", jobs, shots, summary, given, part=f"{shots}shot")


if __name__ == "__main__":
    main()
