"""Draw the comparison whose numbers the package brings along: ``python tools/side_by_side.py``.

Chapter 8 shows the numbers wherever it runs; the files in ``results/`` are not installed. The
README shows the figure.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from metalearn_tut.files.cache import atomic_write
from metalearn_tut.nb import plots
from metalearn_tut.nb.recorded import FILE, Rows

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "book" / "_static" / "side_by_side.png"
COSTS = {"bytes": "bytes of the file", "macs": "multiply-adds for an image"}
METHODS = {
    "MAML, width 8 to 32": ("maml8", "maml16", "maml32"),
    "prototypes, width 8 and 32": ("proto8", "proto32"),
    "ANP, 50 to 90 % pruned": ("anp50", "anp75", "anp90"),
    "half of the filters": ("filters",),
    "residual network; by ABP": ("residual", "abp"),
    "TSMD; with ANP": ("tsmd", "tsmd-anp50"),
    "gates, price 0.5 to 2": ("gated0.5", "gated1", "gated2"),
}


def digest() -> str:
    """Of the numbers in the package: the figure says which ones it shows."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def front(rows: Rows, what: str) -> list[str]:
    """The learners that are more accurate than all that cost no more."""
    names: list[str] = []
    for name in sorted(rows, key=lambda n: (rows[n][what], -rows[n]["accuracy"])):
        if not names or rows[name]["accuracy"] > rows[names[-1]]["accuracy"]:
            names.append(name)
    return names


def draw(rows: Rows, path: Path) -> None:
    """Accuracy against both costs, of the learners trained on clean tasks."""
    clean = {name: rows[name] for names in METHODS.values() for name in names}
    with plots.figure(columns=2, width=5.6, height=4.4) as axes:
        for ax, (what, label) in zip(axes, COSTS.items(), strict=True):
            plots.trade_off(ax, clean, METHODS, what, front(clean, what), label)
        plots.legend_below(axes, columns=4)
        with atomic_write(path) as whole:
            about = {"Description": digest()}
            axes[0].figure.savefig(whole, dpi=150, metadata=about)


def main() -> None:
    """Write the figure."""
    draw(json.loads(FILE.read_text("utf-8")), FIGURE)
    print(FIGURE)


if __name__ == "__main__":
    main()
