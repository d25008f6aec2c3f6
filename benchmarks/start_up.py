"""What a program waits for before its first line of work: imports, and the command line.

    python benchmarks/start_up.py

Each is a fresh Python, in turns, `--rounds` times; the first round, which reads from the disk, is
left out. To `results/benchmarks/start_up.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from sides import versions

from metalearn_tut.files.provenance import write_result

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "start_up.json"
USED = "from metalearn_tut import MAML, evaluate, meta_train, models, tasks"
STARTS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import metalearn_tut": ["-c", "import metalearn_tut"],
    USED: ["-c", USED],
    "metalearn-tut --help": ["-m", "metalearn_tut", "--help"],
    "import higher": ["-c", "import higher"],
    "import torchopt": ["-c", "import torchopt"],
}


def seconds(arguments: list[str]) -> float:
    plain = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=plain, stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    peers = versions()
    there = {n: s for n, s in STARTS.items() if n != "import torchopt" or "torchopt" in peers}
    times: dict[str, list[float]] = {name: [] for name in there}
    for r in range(arguments.rounds + 1):
        for name, given in there.items():
            took = seconds(given)
            if r:
                times[name].append(took)
    config = {"command": "python benchmarks/start_up.py", "rounds": arguments.rounds}
    config |= {"peers": peers}
    write_result(arguments.out, config=config, values={"seconds": times})


if __name__ == "__main__":
    main()
