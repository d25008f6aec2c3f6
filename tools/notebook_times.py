"""Seconds per notebook and what was left out, from a junit file of pytest.

    python tools/notebook_times.py FILE

A time tells as much about the machine as about the notebook: it is printed, and only a notebook
that did not run is an error. What a notebook may cost is kept in ``benchmarks/notebooks.py``.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path


def seconds_per_notebook(junit: Path) -> dict[str, float]:
    """Sum the cells' times, kernel start included, by notebook name."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(junit).getroot().iter("testcase"):
        name = case.get("classname", "").removesuffix(".ipynb")
        if name != case.get("classname"):
            seconds[name.replace("/", ".").split(".")[-1]] += float(case.get("time", 0))
    return dict(seconds)


def left_out(junit: Path) -> int:
    """How many tests were left to ``make test-all``."""
    skipped = ET.parse(junit).getroot().iter("skipped")
    return sum("METALEARN_TUT_SLOW" in case.get("message", "") for case in skipped)


def main(junit: Path, book: Path) -> int:
    """Print the table and say how many notebooks did not run."""
    found = seconds_per_notebook(junit)
    names = sorted(path.stem for path in book.glob("*.ipynb"))
    for name in names:
        print(f"{found[name]:6.1f} s  {name}" if name in found else f"   did not run  {name}")
    if left := left_out(junit):
        print(f"{left} slow tests were left out; make test-all runs them, too")
    return len(set(names) - found.keys())


if __name__ == "__main__":
    if main(Path(sys.argv[1]), Path(__file__).parents[1] / "book"):
        raise SystemExit(1)
