"""Seconds per notebook, from a junit file of pytest: ``python tools/notebook_times.py FILE``.

Fails when a notebook took longer than the book promises, or when its time is missing.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

LIMIT = 90.0


def seconds_per_notebook(junit: Path) -> dict[str, float]:
    """Sum the cells' times, kernel start included, by notebook name."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(junit).getroot().iter("testcase"):
        name = case.get("classname", "").removesuffix(".ipynb")
        if name != case.get("classname"):
            seconds[name.replace("/", ".").split(".")[-1]] += float(case.get("time", 0))
    return dict(seconds)


def main(junit: Path, book: Path) -> int:
    """Print the table and say how many notebooks break the promise."""
    found, wrong = seconds_per_notebook(junit), 0
    for name in sorted(path.stem for path in book.glob("*.ipynb")):
        seconds = found.get(name, 0.0)
        kept = 0 < seconds <= LIMIT
        wrong += not kept
        print(f"{seconds:6.1f} s  {name}" + ("" if kept else f"  (must run, within {LIMIT:.0f} s)"))
    return wrong


if __name__ == "__main__":
    if main(Path(sys.argv[1]), Path(__file__).parents[1] / "book"):
        raise SystemExit(1)
