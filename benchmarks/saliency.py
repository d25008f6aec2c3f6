"""Layer Hessians inverted: one Cholesky factorization against one update per input row.

    python benchmarks/saliency.py [--quick]

ANP scores a Conv4-32 on 20 glyph tasks (5-way 1-shot, five inner steps of 0.01 as in the
authors' code, one thread). For each layer every side gets the same input rows of the adapted
networks and inverts the same Hessian. `cholesky` is the package, as in `layer_hessians`.
`updates` starts at 1e6 I and makes a rank-one (Woodbury) update per row, computed as the public
code does: two products for the numerator, another for the denominator, a new matrix. `lean` is
the best that we can make of such updates: one product, as the matrix is symmetric, and in place.

The inverses are first checked to be equal to 1e-6, each entry relative to its row and column.
Then the sides alternate, `--rounds` times each, with the rows of every output position, and again
with every fifth row and column of positions, as the authors take them. The medians, how many
times faster `cholesky` is, and the seconds that the whole scoring takes, adaptation included, go
to `results/benchmarks/saliency.json`; `--quick` takes two tasks and one round and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalearn_tut import MAML, models, saliency, tasks
from metalearn_tut.files.provenance import write_result
from metalearn_tut.tasks import TaskBatch

RESULT = Path(__file__).parent.parent / "results" / "benchmarks" / "saliency.json"
INNER = {"inner_lr": 0.01, "inner_steps": 5}
TASKS, STRIDES, RIDGE, TOLERANCE = 20, (1, 5), 1e-6, 1e-6
Rows = dict[str, Tensor]


def network() -> MAML:
    torch.manual_seed(0)
    net = models.Conv4(in_channels=1, ways=5, width=32)
    nn.init.normal_(net.head.weight, std=0.1)  # a zero head would have a zero body gradient
    return MAML(net, **INNER)


def input_rows(learner: MAML, batch: TaskBatch, stride: int) -> Rows:
    """All input rows of every layer, ``[n, d]``."""
    seen = [saliency.layer_inputs(learner, task, patch_stride=stride) for task in batch]
    return {layer: torch.cat([rows[layer] for rows in seen]) for layer in seen[0]}


def by_cholesky(x: Tensor) -> Tensor:
    gram = x.new_zeros(x.shape[1], x.shape[1]).addmm_(x.T, x) / len(x)
    return saliency.LayerHessian("", gram, len(x), RIDGE).inverse


def by_updates(x: Tensor) -> Tensor:
    inverse = np.eye(x.shape[1]) / RIDGE
    for row in x.numpy()[:, None]:  # [1, d]
        numerator = (inverse @ row.T) @ (row @ inverse)
        denominator = len(x) + (row @ inverse) @ row.T
        inverse = inverse - numerator * (1 / denominator)
    return torch.from_numpy(inverse)


def by_lean_updates(x: Tensor) -> Tensor:
    inverse = np.eye(x.shape[1]) / RIDGE
    for row in x.numpy():
        seen = inverse @ row
        inverse -= np.outer(seen, seen / (len(x) + row @ seen))
    return torch.from_numpy(inverse)


SIDES = {"cholesky": by_cholesky, "updates": by_updates, "lean": by_lean_updates}


def difference(a: Tensor, b: Tensor) -> float:
    """Largest ``|a - b|_ij / sqrt(b_ii b_jj)``: where an input is always 0, entries are huge."""
    scale = b.diagonal().sqrt()
    return ((a - b).abs() / scale / scale.unsqueeze(1)).max().item()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(learner: MAML, batch: TaskBatch, stride: int, rounds: int) -> dict[str, Any]:
    rows = input_rows(learner, batch, stride)
    differences = [
        difference(SIDES[side](x), by_cholesky(x))
        for x in rows.values()
        for side in list(SIDES)[1:]
    ]
    if not max(differences) < TOLERANCE:
        raise SystemExit(f"the sides find different inverses: {max(differences):.1e}")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    scoring = []
    for _ in range(rounds):
        for side, invert in SIDES.items():
            times[side].append(seconds(lambda f=invert: [f(x) for x in rows.values()]))
        scoring.append(
            seconds(
                lambda: saliency.scores_of(learner, batch, saliency.Criterion(patch_stride=stride))
            )
        )
    medians = {side: statistics.median(found) for side, found in times.items()}
    return {
        "rows": {layer: list(x.shape) for layer, x in rows.items()},
        "seconds": times,
        "ratio": medians["updates"] / medians["cholesky"],
        "ratio_to_lean": medians["lean"] / medians["cholesky"],
        "scoring_seconds": scoring,
        "inverse_difference": max(differences),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two tasks, one round, no file")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n_tasks, rounds = (2, 1) if arguments.quick else (TASKS, arguments.rounds)
    batch = tasks.glyphs("train").sampler(ways=5, shots=1, queries=15, seed=0).batch(0, n_tasks)
    values = {}
    for stride in STRIDES:
        found = measure(network(), batch, stride, rounds)
        values[f"patch stride {stride}"] = found
        print(
            f"patch stride {stride}: {found['ratio']:.0f} times faster than the updates, "
            f"{found['ratio_to_lean']:.0f} times than lean ones; inverses equal to "
            f"{found['inverse_difference']:.0e}; the whole scoring takes "
            f"{statistics.median(found['scoring_seconds']):.1f} s",
            flush=True,
        )
    if arguments.quick:
        return
    config = {"command": "python benchmarks/saliency.py", "rounds": rounds, "tasks": n_tasks}
    config |= {**INNER, "ridge": RIDGE, "threads": 1}
    write_result(arguments.out, config=config, values=values)


if __name__ == "__main__":
    main()
