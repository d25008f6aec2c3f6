"""What the notebooks cost: their time as a multiple of a fixed piece of work.

    python benchmarks/notebooks.py [NAME ...]

A notebook is executed on a fresh kernel, one thread, and the piece of work is timed before and
after it: what else the machine does slows both, so that the ratio says what the notebook costs
and not how fast the machine is. On the machine of the chapters' own times a piece takes about a
second. To `results/benchmarks/notebooks.json`, which keeps what was measured of other notebooks;
ends with 1 if one costs more than `BUDGET`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn_tut.files.provenance import write_result

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "benchmarks" / "notebooks.json"
BUDGET = 90.0  # pieces of work that a notebook may cost


def piece_of_work(steps: int = 40, numbers: int = 4_000_000) -> float:
    """Always the same: a network trained for some steps, in plain PyTorch, and plain Python.

    Parameters
    ----------
    steps, numbers : int
        How much of each; the defaults are the piece that all is compared with.

    Returns
    -------
    float
        The last loss, which no run of the same PyTorch changes.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 28, 28, generator=generator)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6272, 5)]
        network = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), torch.arange(64) % 5)
        loss.backward()
        optimizer.step()
    sum(i * i % 7 for i in range(numbers))
    return loss.item()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def execute(name: str) -> None:
    """One notebook on a fresh kernel, with one thread; its copy is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "tools" / "run_notebook.py")]
        command += [str(ROOT / "book" / f"{name}.ipynb"), str(Path(folder) / f"{name}.ipynb")]
        one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(command, env=one, check=True)


def cost_of(name: str, rounds: int) -> dict[str, Any]:
    """Its ratio to the piece of work, the median over the rounds, and what that was made from."""
    seconds, pieces = [], [timed(piece_of_work)]
    for _ in range(rounds):
        seconds.append(timed(lambda: execute(name)))
        pieces.append(timed(piece_of_work))
    around = [(a + b) / 2 for a, b in itertools.pairwise(pieces)]
    ratios = [s / piece for s, piece in zip(seconds, around, strict=True)]
    return {"ratio": statistics.median(ratios), "seconds": seconds, "pieces": pieces}


def measured(out: Path) -> dict[str, Any]:
    """What is on file."""
    return json.loads(out.read_text("utf-8"))["values"]["notebooks"] if out.is_file() else {}


def main() -> None:
    every = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*every, []], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    timed(piece_of_work)  # warm up
    found = {n: c for n, c in measured(arguments.out).items() if n in every}
    config = {"command": "python benchmarks/notebooks.py", "budget": BUDGET}
    for name in arguments.names or every:
        found[name] = cost_of(name, arguments.rounds)
        print(f"{name}: {found[name]['ratio']:.0f} pieces of work", flush=True)
        values = {"notebooks": dict(sorted(found.items())), "loss": piece_of_work()}
        write_result(arguments.out, config=config, values=values)
    if dear := [name for name, cost in found.items() if cost["ratio"] > BUDGET]:
        raise SystemExit(f"more than {BUDGET:.0f} pieces of work: {', '.join(dear)}")


if __name__ == "__main__":
    main()
