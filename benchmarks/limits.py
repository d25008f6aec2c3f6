"""How far from the machine's limit a meta-training step is.

    python benchmarks/limits.py

The machine: the most floating-point operations a second in a product of matrices, and in a
convolution of many channels, and the most bytes a second in a copy, on two cores. A step: the
operations of its convolutions and products (PyTorch's counter), how long they would take at that
peak, and how long the step takes. To `results/benchmarks/limits.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from cases import INNER_LR, TASKS, Case
from meta_training import LARGE, SIDES, SMALL, trainer
from torch.utils.flop_counter import FlopCounterMode

from metalearn_tut import bilevel
from metalearn_tut.files.provenance import write_result
from metalearn_tut.machine import keep_memory

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "limits.json"


def least(call: Callable[[], object], repeats: int = 20) -> float:
    """The least seconds that a call took."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def peaks() -> dict[str, float]:
    """Operations and bytes a second."""
    a, n = torch.randn(1536, 1536), 1536
    x = torch.randn(16, 128, 28, 28).contiguous(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3)
    large, other = torch.randn(2**26), torch.empty(2**26)
    product, convolution = least(lambda: a @ a), least(lambda: F.conv2d(x, w, padding=1))
    return {
        "product, operations a second": 2 * n**3 / product,
        "convolution, operations a second": 2 * 9 * w.shape[0] * x.numel() / convolution,
        "copy, bytes a second": 2 * large.nbytes / least(lambda: other.copy_(large), 10),
    }


def operations(case: Case) -> int:
    """Floating-point operations of a step's convolutions and products; a multiply-add is two."""
    counter = FlopCounterMode(display=False)
    batch = case.sampler().batch(0, 1)
    with counter:
        bilevel.meta_gradient(case.network(), batch, inner_lr=INNER_LR, inner_steps=case.steps)
    return TASKS * counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=json.loads, default=SMALL + LARGE)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    keep_memory()
    machine = peaks()
    peak = max(machine["product, operations a second"], machine["convolution, operations a second"])
    print(", ".join(f"{name}: {each / 1e9:.0f} billion" for name, each in machine.items()))
    values = {"machine": machine, "cases": {}}
    for case in (Case(*each) for each in arguments.cases):
        train = trainer(SIDES["package"], case)
        train(1)
        steps = 5 if case.size == 28 else 2
        seconds = least(lambda t=train, n=steps: t(n), arguments.rounds) / steps
        found = {"operations": operations(case), "seconds": seconds}
        found["share"] = found["operations"] / peak / seconds
        values["cases"][str(case)] = found
        print(f"{case}: {found['share']:.0%} of the peak", flush=True)
    config = {"command": "python benchmarks/limits.py", "rounds": arguments.rounds}
    write_result(arguments.out, config=config, values=values)


if __name__ == "__main__":
    main()
