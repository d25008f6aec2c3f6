"""What the studies have found, for chapters that run without ``results/``.

``make format`` writes it. The files of a study's jobs stay in the repository; the package brings
along what chapters show of them. Of a study that has not ended, it says how far it is.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from claims_figure import bounds

from metalearn_tut import claims
from metalearn_tut.claims.report import Finding, Report
from metalearn_tut.claims.statistics import accuracies
from metalearn_tut.nb.forest import Row
from metalearn_tut.nb.recorded import STUDIES

RESULTS = Path(__file__).parents[1] / "results" / "claims"


def found(results: Path = RESULTS) -> dict[str, Any]:
    """Of every study: jobs that have ended, claims, and what stands beside them."""
    return {name: _of(Report.of(claims.load(name), results)) for name in claims.STUDIES}


def _of(report: Report) -> dict[str, Any]:
    rows = [_row(finding) for finding in (*report.claims(), *report.reported())]
    found = {"done": len(report.records), "total": report.total, "rows": rows}
    return found | ({"table": _table(report)} if report.study.name == "compact" else {})


def _table(report: Report) -> dict[str, Any]:
    """Accuracy and costs of every arm, once all jobs have ended; before, nothing."""
    seeds = report.study.seeds
    arms = dict.fromkeys(name.rpartition("-")[0] for name in report.values) if report.done else {}
    return {arm: _arm([report.values[f"{arm}-{seed}"] for seed in seeds]) for arm in arms}


def _arm(trainings: list[dict[str, Any]]) -> dict[str, float]:
    """Means over trainings, and the half-width of the interval of the accuracy over them."""
    right = [statistics.fmean(accuracies(values["test"])) for values in trainings]
    accuracy = Row(right, 0.0)
    found = {"accuracy": accuracy.mean, "over_seeds": accuracy.over_trainings}
    for what in ("parameters", "macs", "bytes", "learner_bytes"):
        found[what] = statistics.fmean(values["cost"][what] for values in trainings)
    return {name: round(value, 6) for name, value in found.items()}


def _row(finding: Finding) -> dict[str, Any]:
    """A comparison; without numbers as long as one of its jobs is missing."""
    of, effect = finding.of, finding.effect
    row = {"arm": of.arm, "rival": of.rival, "split": of.split, "verdict": None}
    row |= {"rival_split": of.rival_split} if of.rival_split else {}
    row |= {"bounds": bounds(of)} if bounds(of) else {}
    if effect is None:
        return row
    numbers = {"seeds": [round(seed, 6) for seed in effect.seeds]}
    numbers |= {"mean": round(effect.mean, 6), "over_tasks": round(effect.over_tasks, 6)}
    numbers |= {"over_seeds": round(effect.over_seeds, 6), "verdict": finding.verdict}
    return row | numbers


def write(path: Path = STUDIES, results: Path = RESULTS) -> bool:
    """Bring the file in the package up to date; whether it was not."""
    text = json.dumps(found(results), indent=1) + "\n"
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    path.write_text(text, "utf-8")
    return True


if __name__ == "__main__":
    print(f"{STUDIES.name}: {'written' if write() else 'up to date'}")
