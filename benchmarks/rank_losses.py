"""What a rank loss costs per training step, against the mean of the same tasks.

    python benchmarks/rank_losses.py

Conv4-32 on 5-way 1-shot glyph tasks (15 queries per class, one inner step, second order), 16
tasks per step, one thread. The mean, `RankedRange` and a threshold tracker are trained side by
side, each with the meta-gradients of all tasks and with deferred ones, which are computed for
the tasks kept alone; the eager mean is the reference. All alternate, `--rounds` times each; the
median seconds per step and their ratios to the reference go to
`results/benchmarks/rank_losses.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from metalearn_tut import MAML, models, tasks
from metalearn_tut.files.provenance import write_result
from metalearn_tut.rank_losses import RankedRange, ThresholdTracker
from metalearn_tut.training.loop import meta_train

RESULT = Path(__file__).parent.parent / "results" / "benchmarks" / "rank_losses.json"
TASKS, WARM = 16, 2
DROPPED = {"drop_hardest": 0.25, "drop_easiest": 0.1}  # 11 of 16 tasks are kept
AGGREGATES = {
    "mean": lambda: torch.mean,
    "ranked range": lambda: RankedRange.fractions(**DROPPED),
    "tracker": lambda: ThresholdTracker.fractions(**DROPPED, burn_in=0),
}


def seconds_per_step(name: str, deferred: bool, steps: int) -> float:
    torch.manual_seed(0)
    net = models.Conv4(in_channels=1, ways=5, width=32)
    nn.init.normal_(net.head.weight, std=0.1)  # a zero head would have a zero body gradient
    learner, aggregate = MAML(net, 0.4, 1, deferred=deferred), AGGREGATES[name]()
    sampler = tasks.glyphs("train").sampler(ways=5, shots=1, queries=15, seed=0)

    def run(steps: int) -> float:
        start = time.perf_counter()
        settings = {"tasks_per_step": TASKS, "aggregate": aggregate, "progress": False}
        meta_train(learner, sampler, steps=steps, **settings)
        return (time.perf_counter() - start) / steps

    run(WARM)
    return run(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sides = {
        f"{name}, {'deferred' if deferred else 'eager'}": (name, deferred)
        for name in AGGREGATES
        for deferred in (False, True)
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, (name, deferred) in sides.items():
            seconds[side].append(seconds_per_step(name, deferred, arguments.steps))
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    ratios = {side: median / medians["mean, eager"] for side, median in medians.items()}
    for side, ratio in ratios.items():
        print(f"{side:24s} {1e3 * medians[side]:7.1f} ms per step, {ratio:.2f} of the mean's")
    command = "python benchmarks/rank_losses.py"
    config = {"command": command, "rounds": arguments.rounds, "steps": arguments.steps}
    config |= {"tasks_per_step": TASKS, **DROPPED}
    values = {"seconds_per_step": seconds, "ratio_to_mean": ratios}
    write_result(arguments.out, config=config, values=values)


if __name__ == "__main__":
    main()
