"""What a user waits for: adapting to one task, and drawing tasks.

    python benchmarks/one_task.py

`adaptation` is the time from five labeled images to the predictions of 75 others (5-way 1-shot,
Conv4-32, one and five inner steps, 28x28), in one process of two threads that keeps its memory,
for this package and its peers, each on its own network; the predictions are first shown to be
equal. `evaluation` is the time of 600 such tasks with one step: this package takes several at a
time. `sampling` is how many tasks of drawn characters this package draws in a second with one
thread; the peers that install bring no sampler. To `results/benchmarks/one_task.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cases import FIRST, INNER_LR, Case
from rounds import Log, beside, fresh, in_turns
from sides import PEERS, OrdinaryConv4, versions
from torch import Tensor

from metalearn_tut import MAML, evaluate, tasks
from metalearn_tut.machine import keep_memory
from metalearn_tut.tasks import Task

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "one_task.json"
CASES = (FIRST, FIRST._replace(steps=5))
DRAWN = ((5, 1), (20, 5))  # ways, shots
EVALUATED = 600
TOLERANCE = 1e-3  # float32 logits of some units, after five steps


def predictor(side: str, case: Case) -> Callable[[Task], Tensor]:
    """From a task to the outputs of its query images."""
    if side in PEERS:
        return PEERS[side](OrdinaryConv4(case.network()), INNER_LR, case.steps).predict
    learner = MAML(case.network(), INNER_LR, case.steps)
    return lambda task: learner.adapt(task.support_x, task.support_y)(task.query_x)


def adaptation(side: str, case: Case, repeats: int) -> float:
    """Median seconds over the first tasks, after one to warm up."""
    predict, sampler, times = predictor(side, case), case.sampler(), []
    wanted = predictor("package", case)(sampler[0])
    torch.testing.assert_close(predict(sampler[0]), wanted, rtol=0, atol=TOLERANCE)
    for i in range(1, repeats + 1):
        task, start = sampler[i], time.perf_counter()
        predict(task)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def evaluation(side: str) -> float:
    """Seconds for the accuracies of 600 tasks, after some to warm up."""
    sampler = FIRST.sampler()
    if side in PEERS:
        predict = predictor(side, FIRST)

        def accuracies(n: int) -> list[float]:
            drawn = (sampler[i] for i in range(n))
            return [(predict(t).argmax(1) == t.query_y).float().mean().item() for t in drawn]
    else:
        learner = MAML(FIRST.network(), INNER_LR, FIRST.steps)

        def accuracies(n: int) -> list[float]:
            return evaluate(learner, sampler, n).values.tolist()

    accuracies(8)
    start = time.perf_counter()
    accuracies(EVALUATED)
    return time.perf_counter() - start


def sampling(ways: int, shots: int, repeats: int) -> float:
    """Tasks per second."""
    sampler = tasks.glyphs("train").sampler(ways, shots, 15, seed=0)
    sampler[0]
    start = time.perf_counter()
    for i in range(1, repeats + 1):
        sampler[i]
    return repeats / (time.perf_counter() - start)


def work(side: str, repeats: int) -> dict[str, float]:
    """Everything that is measured of one side."""
    torch.set_num_threads(1 if side == "sampling" else 2)
    keep_memory()
    if side != "sampling":
        found = {str(case): adaptation(side, case, repeats) for case in CASES}
        return {**found, "evaluation": evaluation(side)}
    return {f"{n}-way {k}-shot": sampling(n, k, 4 * repeats) for n, k in DRAWN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker, arguments.repeats)))
        return
    config = {"command": "python benchmarks/one_task.py", "rounds": arguments.rounds}
    log = Log(arguments.out, **config, repeats=arguments.repeats)
    given = ["--repeats", str(arguments.repeats), "--worker"]
    sides = ["package", *versions(), "sampling"]
    found = in_turns(log, sides, arguments.rounds, lambda s: fresh("one_task.py", [*given, s])[0])
    drawn = found.pop("sampling")
    values = {"adaptation": {}, "sampling": {k: [r[k] for r in drawn] for k in drawn[0]}}
    for case in map(str, CASES):
        seconds = {side: [each[case] for each in rounds] for side, rounds in found.items()}
        values["adaptation"][case] = {"seconds": seconds, **beside(seconds, "package", PEERS)}
    seconds = {side: [each["evaluation"] for each in rounds] for side, rounds in found.items()}
    values["evaluation"] = {"seconds": seconds, **beside(seconds, "package", PEERS)}
    log.finish(values)


if __name__ == "__main__":
    main()
