"""The memory that a meta-training step needs: this package beside its peers.

    python benchmarks/memory.py

Every side of `meta_training.py` trains for two steps in fresh processes. The kernel tells the
largest memory that each process held (resident set, high-water mark). Where two work together,
both are added up, and the pages of the libraries, which they share, are counted once. Beside it
stands what the processes held before the first step. To `results/benchmarks/memory.json`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cases import Case
from meta_training import SIDES, present, trainer
from rounds import Log, fresh, in_turns
from sides import PEERS

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "memory.json"
CASES = (Case(32, 28, 1, 1), Case(32, 28, 5, 5), Case(32, 84, 1, 1), Case(32, 84, 1, 5))
ASKED = ("package", "package, one worker", "package, two processes", *PEERS)


def held(status: str) -> dict[str, float]:
    """MB of this process from the text of ``/proc/self/status``: now, at most, of libraries."""
    names = {"now": "VmRSS", "most": "VmHWM", "libraries": "RssFile"}
    found = {n: re.search(rf"^{key}:\s+(\d+) kB$", status, re.M) for n, key in names.items()}
    return {name: int(match[1]) / 1024 for name, match in found.items()}


def together(processes: Sequence[Mapping[str, float]], key: str) -> float:
    """The memory of all processes, with the libraries counted once."""
    libraries = [process["libraries"] for process in processes]
    return sum(process[key] for process in processes) - sum(libraries) + max(libraries)


def work(side: str, case: Case) -> dict[str, dict[str, float]]:
    SIDES[side].begin()
    train = trainer(SIDES[side], case)
    status = Path("/proc/self/status")
    before = held(status.read_text())
    train(2)
    return {"before": before, "after": held(status.read_text())}


def measured(side: str, case: Case) -> dict[str, float]:
    given = ["--worker", side, "--cases", json.dumps([case])]
    told = fresh("memory.py", given, SIDES[side].processes, SIDES[side].threads)
    return {
        "peak": together([process["after"] for process in told], "most"),
        "before": together([process["before"] for process in told], "now"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", type=json.loads, default=CASES)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = [Case(*case) for case in arguments.cases]
    if not Path("/proc/self/status").is_file():
        raise SystemExit("memory is only measured on Linux")
    if arguments.worker:
        print(json.dumps(work(arguments.worker, cases[0])))
        return
    config = {"command": "python benchmarks/memory.py", "rounds": arguments.rounds}
    log = Log(arguments.out, **config, cases=[str(case) for case in cases])
    sides = [side for side in ASKED if side in present()]
    values = {}
    for case in cases:
        found = in_turns(log, sides, arguments.rounds, lambda s, c=case: measured(s, c), str(case))
        values[str(case)] = {"megabytes": found}
    log.finish(values)


if __name__ == "__main__":
    main()
