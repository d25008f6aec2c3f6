"""Pilots: short trainings with seeds of their own, whose validation tasks choose a setting.

Every arm that is compared has a grid of the same size. The rule is fixed before: the point with the
highest accuracy on validation tasks. What the pilots found is on file, and what follows from it
stands in the configuration of every job.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from metalearn_tut.claims.statistics import accuracies

RESULTS = Path(__file__).parents[2] / "results" / "claims"
Point = TypeVar("Point")


def found(study: str, results: Path | None = None, most_macs: float = 1.0) -> dict[str, float]:
    """Accuracy on validation tasks of each pilot on file that costs no more, by the job's name."""
    folder = (results or RESULTS) / study / "pilots"
    values = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*.json"))}
    kept = {name: record["values"]["values"] for name, record in values.items()}
    return {
        name: statistics.fmean(accuracies(each["validation"]))
        for name, each in kept.items()
        if "validation" in each and each.get("macs", 0.0) <= most_macs
    }


def chosen(
    study: str,
    arm: str,
    grid: Mapping[str, Point],
    usual: str,
    results: Path | None = None,
    most_macs: float = 1.0,
) -> Point:
    """The best point of an arm's grid; the usual one as long as a pilot is missing.

    Parameters
    ----------
    study, arm : str
        Pilots are jobs of the study called ``ARM-POINT``.
    grid : mapping of str to anything
        The settings that are tried, by the names of the points.
    usual : str
        The point to take without pilots.
    results : path, optional
        Where to look, if not in the clone that this file is in.
    most_macs : float, default 1
        Leave out what takes a larger share of the multiply-adds, if anything does not.
    """
    every, cheap = found(study, results), found(study, results, most_macs)
    if any(f"{arm}-{point}" not in every for point in grid):
        return grid[usual]
    tried = [point for point in grid if f"{arm}-{point}" in cheap] or list(grid)
    return grid[max(tried, key=lambda point: every[f"{arm}-{point}"])]
