"""Where the time of a meta-training step goes.

    python benchmarks/where_time_goes.py

The package's step of `meta_training.py`, one process of one thread, seen by PyTorch's profiler:
the share of the processor's time in convolutions, in batch normalization, in pooling, and in the
rest (second derivatives of other layers, updates, Python). To
`results/benchmarks/where_time_goes.json`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from cases import FIRST, Case
from meta_training import SIDES, trainer
from torch.profiler import ProfilerActivity, profile

from metalearn_tut.files.provenance import write_result

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "where_time_goes.json"
CASES = (FIRST, FIRST._replace(steps=5), FIRST._replace(width=64), FIRST._replace(size=84))
PARTS = {"batch norm": ("batchnorm",), "convolution": ("conv",), "pooling": ("max_pool2d",)}


def part_of(event: Any) -> str:
    """The part that an operation belongs to, by its name or by what called it."""
    while event is not None:
        for part, names in PARTS.items():
            if any(name in event.name.lower() for name in names):
                return part
        event = event.cpu_parent
    return "rest"


def shares(case: Case, steps: int) -> dict[str, float]:
    """The share of the time in each part."""
    train = trainer(SIDES["package, one thread"], case)
    train(2)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        train(steps)
    spent: Counter[str] = Counter()
    for event in profiler.events():
        spent[part_of(event)] += event.self_cpu_time_total
    return {part: spent[part] / spent.total() for part in (*PARTS, "rest")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    values = {}
    for case in CASES:
        values[str(case)] = found = shares(case, arguments.steps)
        said = ", ".join(f"{part} {100 * share:.0f} %" for part, share in found.items())
        print(f"{case}: {said}", flush=True)
    config = {"command": "python benchmarks/where_time_goes.py", "steps": arguments.steps}
    write_result(arguments.out, config=config, values=values)


if __name__ == "__main__":
    main()
