"""Many tasks in one step: all at once against `higher`, one after another.

    python benchmarks/many_tasks.py --device cuda

One second-order meta-gradient of Conv4-32 (5-way 1-shot, 28x28, one and five inner steps) on 1 to
256 tasks: by the package's engine that computes all tasks in one graph, by its loop, and by
`higher` on a Conv4 as usually written. The tasks are on the device beforehand; a time ends when
the device has finished. The gradients are first compared in float64. To
`results/benchmarks/many_tasks_DEVICE.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cases import FIRST, Case
from meta_training import SIDES, differences, gradient_of
from rounds import Log, beside, fresh, in_turns
from sides import PEERS

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
ASKED = ("package, all tasks at once", "package", "higher")
CASES = (FIRST, FIRST._replace(steps=5))


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Per call, after one to warm up, until the device has finished."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - start) / repeats


def work(name: str, case: Case, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of one meta-gradient for each number of tasks."""
    device = torch.device(arguments.device)
    net = SIDES[name].network(case).to(device)
    gradient, found = gradient_of(SIDES[name], net, case), {}
    for n in arguments.tasks:
        batch = case.sampler().batch(0, n).to(device)
        found[str(n)] = seconds(lambda b=batch: gradient(b), device, arguments.repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tasks", type=json.loads, default=[1, 4, 16, 64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=json.loads, default=CASES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = [Case(*case) for case in arguments.cases]
    if arguments.worker:
        print(json.dumps(work(arguments.worker, cases[0], arguments)))
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --device cpu measures the same on the processor")
    given = {name: getattr(arguments, name) for name in ("device", "tasks", "repeats")}
    equal = "one process, one " + ("GPU" if arguments.device == "cuda" else "processor")
    command = f"python benchmarks/many_tasks.py --device {arguments.device}"
    out = arguments.out or RESULTS / f"many_tasks_{arguments.device}.json"
    log = Log(out, command=command, rounds=arguments.rounds, equal=equal, **given)
    values = {}
    for case in cases:
        gaps = log.get(f"gradients, {case}", lambda c=case: differences(ASKED, c, arguments.device))
        options = [f"--{name}={value}" for name, value in given.items()]
        options += ["--cases", json.dumps([case]), "--worker"]
        times = in_turns(
            log,
            ASKED,
            arguments.rounds,
            lambda side, o=options: fresh("many_tasks.py", [*o, side])[0],
            str(case),
        )
        values[str(case)] = {"differences": gaps, "tasks": {}}
        for n in map(str, arguments.tasks):
            per = {side: [each[n] for each in rounds] for side, rounds in times.items()}
            values[str(case)]["tasks"][n] = {"seconds": per, **beside(per, ASKED[0], PEERS)}
    log.finish(values)


if __name__ == "__main__":
    main()
