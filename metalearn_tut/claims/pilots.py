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


def found(study: str, results: Path | None = None) -> dict[str, float]:
    """Accuracy on validation tasks of each pilot on file, by the job's name."""
    folder = (results or RESULTS) / study / "pilots"
    values = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*.json"))}
    kept = {name: record["values"]["values"] for name, record in values.items()}
    return {
        name: statistics.fmean(accuracies(each["validation"]))
        for name, each in kept.items()
        if "validation" in each
    }


def chosen(
    study: str, arm: str, grid: Mapping[str, Point], usual: str, results: Path | None = None
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
    """
    tried = {n: a for n, a in found(study, results).items() if n in {f"{arm}-{p}" for p in grid}}
    if len(tried) < len(grid):
        return grid[usual]
    best = max(tried, key=tried.__getitem__)
    return grid[best.removeprefix(f"{arm}-")]
