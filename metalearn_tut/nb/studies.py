"""What the studies of the papers found, for a chapter that cannot run them: its forest plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metalearn_tut.nb import forest
from metalearn_tut.nb.plots import COLORS
from metalearn_tut.nb.schematic import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = Path(__file__).with_name("studies.json")
LOOKS = {"holds": 2, "does not hold": 1, "not decided": 6}  # by verdict, in ``plots.COLORS``
REPORTED = 5  # of a comparison that no claim is about


@dataclass(frozen=True)
class Found:
    """A difference between two arms of a study: of a claim, its verdict too."""

    row: forest.Row
    verdict: str | None


@dataclass(frozen=True)
class Study:
    """How far a study is, and its differences by ``(arm, rival)``; those that lack a job miss."""

    done: int
    total: int
    found: Mapping[tuple[str, str], Found]

    def __str__(self) -> str:
        state = "finished" if self.done == self.total else "running"
        return f"{state}: {self.done} of {self.total} jobs"


def study(name: str) -> Study:
    """A study, from a copy of its numbers in the package (``tools/recorded_studies.py``).

    Examples
    --------
    >>> print(study("abp_cifar10"))
    finished: 49 of 49 jobs
    """
    kept = json.loads(FILE.read_text("utf-8"))[name]
    found = {
        (one["arm"], one["rival"]): Found(
            forest.Row(one["trainings"], one["over_tasks"]), one["verdict"]
        )
        for one in kept["found"]
        if "trainings" in one
    }
    return Study(kept["done"], kept["total"], found)


def draw(ax: Axes, shown: Study, labels: Mapping[tuple[str, str], str]) -> None:
    """A row for each difference in ``labels`` that is known, in the color of its verdict.

    Parameters
    ----------
    ax : Axes
    shown : Study
        While none of the rows is known, how far the study is is all that is drawn.
    labels : mapping of (arm, rival) to str
        What stands beside the rows, in their order.
    """
    known = {label: shown.found[pair] for pair, label in labels.items() if pair in shown.found}
    if not known:
        ax.set_axis_off()
        text(ax, 0.5, 0.5, str(shown), transform=ax.transAxes)
        return
    colors = [LOOKS.get(found.verdict or "", REPORTED) for found in known.values()]
    rows = {label: found.row for label, found in known.items()}
    forest.draw(ax, rows, line=0.0, colors=colors)
    for verdict, color in LOOKS.items():
        ax.plot([], [], "o", color=COLORS[color], label=verdict)
    ax.plot([], [], "o", color=COLORS[REPORTED], label="reported only")
    ax.figure.legend(loc="outside lower center", ncols=2)
    ax.set_xlabel("difference in accuracy")
