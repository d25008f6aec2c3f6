"""Sinusoid meta-gradients: all tasks at once against one task after another.

    python benchmarks/sinusoid.py

One second-order meta-gradient of the 1-40-40-1 network on 25 tasks of 10 + 10 points, one
thread, by each engine; the engines are first checked to agree in float64. The median times
and ratios go to `results/benchmarks/sinusoid.json`.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import bilevel, tasks
from metalearn_tut.files.provenance import write_result

RESULT = Path(__file__).parent.parent / "results" / "benchmarks" / "sinusoid.json"
ENGINES = ("functional", "higher", "vectorised")
TASKS, REPEATS = 25, 15


def gradient(net: nn.Module, batch: tasks.TaskBatch, engine: str, steps: int) -> dict:
    return bilevel.meta_gradient(
        net, batch, inner_lr=0.01, inner_steps=steps, engine=engine, loss=F.mse_loss
    )


def median_time(net: nn.Module, batch: tasks.TaskBatch, engine: str, steps: int) -> float:
    gradient(net, batch, engine, steps)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        gradient(net, batch, engine, steps)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)]
    net = nn.Sequential(*layers)
    batch = tasks.sinusoid(shots=10, queries=10, seed=0).batch(0, TASKS)
    exact = {e: gradient(net.double(), batch, e, 5) for e in ENGINES}
    for engine in ENGINES[1:]:
        for name, reference in exact["functional"].items():
            torch.testing.assert_close(exact[engine][name], reference, rtol=1e-10, atol=1e-12)
    net.float()
    values = {}
    for steps in (1, 5):
        seconds = {e: median_time(net, batch, e, steps) for e in ENGINES}
        ratios = {e: seconds["functional"] / s for e, s in seconds.items()}
        values[f"{steps} inner steps"] = {"seconds": seconds, "times_faster_than_loop": ratios}
        line = ", ".join(f"{e} {1e3 * s:.1f} ms ({ratios[e]:.1f}x)" for e, s in seconds.items())
        print(f"{steps} inner steps: {line}", flush=True)
    write_result(RESULT, config={"tasks": TASKS, "repeats": REPEATS, "threads": 1}, values=values)


if __name__ == "__main__":
    main()
