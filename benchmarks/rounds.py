"""Fresh processes that take turns, and what their times amount to."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sides import versions

from metalearn_tut.cli.launch import worker_environment
from metalearn_tut.files.provenance import processor, write_result

EQUAL = "one process, two cores, memory kept"
"""What every side has, unless its name says otherwise."""

UNFINISHED = Path(__file__).parents[1] / "build" / "bench"


class Log:
    """Measurements that an interruption does not lose: one JSON line each, until all are there.

    Those made under other circumstances (other code, other settings) are thrown away.
    """

    def __init__(self, out: Path, **config: Any) -> None:
        self.out, self.config = out, {"equal": EQUAL, **config, "peers": versions()}
        circumstances = json.dumps([digest(), processor(), self.config])
        self.path = UNFINISHED / f"{out.stem}.jsonl"
        lines = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        if lines[:1] != [circumstances]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(circumstances + "\n", "utf-8")
            lines = []
        self.known = dict(entry for line in lines[1:] for entry in whole(line))

    def finish(self, values: dict[str, Any]) -> None:
        """Write the result; the next run begins anew."""
        write_result(self.out, config=self.config, values=values)
        self.path.unlink()

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """What is on file for this key, else what is measured now."""
        if key not in self.known:
            self.known[key] = measure()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
            print(f"{key}: {shown(self.known[key])}", flush=True)
        return self.known[key]


def digest() -> str:
    """Of all code that is measured or measures; the papers' studies do neither."""
    here = Path(__file__).parent
    files = [*here.glob("*.py"), *(here.parent / "metalearn_tut").rglob("*.py")]
    read = (p.read_bytes() for p in sorted(files) if p.parent.name not in ("claims", "nb"))
    return hashlib.sha256(b"".join(read)).hexdigest()


def whole(line: str) -> list[Any]:
    """The entry of a line, or none if the line was cut off."""
    try:
        return [json.loads(line)]
    except json.JSONDecodeError:
        return []


def shown(value: Any) -> str:
    """A measurement on a line of its own.

    Examples
    --------
    >>> shown({"a": 0.123456, "b": {"c": None}})
    'a: 0.1235, b: (c: None)'
    """
    if isinstance(value, dict):
        parts = {n: f"({shown(v)})" if isinstance(v, dict) else shown(v) for n, v in value.items()}
        return ", ".join(f"{name}: {part}" for name, part in parts.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_turns(
    log: Log, sides: Sequence[str], rounds: int, measure: Callable[[str], Any], what: str = ""
) -> dict[str, list[Any]]:
    """What every side measures in every round; each round begins with another side."""
    found: dict[str, list[Any]] = {side: [] for side in sides}
    for r in range(rounds):
        first = r % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            key = f"{what} round {r + 1}, {side}".strip()
            found[side].append(log.get(key, lambda s=side: measure(s)))
    return found


def fresh(script: str, arguments: Iterable[str], processes: int = 1, threads: int = 2) -> list[Any]:
    """Run a script of this folder in new processes; the last line of each, read as JSON.

    Several are told of each other as ``metalearn-tut train --processes`` does, one thread each.
    A single one gets what a user's shell would give it, whatever started this one.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    ours = ("MALLOC_", "MKL_", "OMP_", "PYTHONDONT")
    plain = {n: v for n, v in os.environ.items() if not n.startswith(ours)}
    alone = {**plain, "OMP_NUM_THREADS": str(threads)}
    common = {**plain, **worker_environment(processes)} if processes > 1 else alone
    workers = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"{' '.join(command)} failed")
    return [json.loads(text.strip().splitlines()[-1]) for text in said]


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times ``slow`` takes the time of ``fast``: of the medians, and over the rounds.

    Examples
    --------
    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    {'of_medians': 2.0, 'least': 2.0, 'most': 3.0}
    """
    each = [s / f for s, f in zip(slow, fast, strict=True)]
    of_medians = statistics.median(slow) / statistics.median(fast)
    return {"of_medians": of_medians, "least": min(each), "most": max(each)}


def beside(times: Mapping[str, Sequence[float]], ours: str, peers: Iterable[Hashable]) -> dict:
    """The fastest peer, and how many times faster ``ours`` is than each."""
    there = [peer for peer in peers if peer in times]
    faster = {peer: ratio(times[peer], times[ours]) for peer in there}
    fastest = min(there, key=lambda peer: statistics.median(times[peer]), default=None)
    return {"fastest_peer": fastest, "times_faster_than": faster}
