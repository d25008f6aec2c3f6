"""What the studies have found, for chapters that run without ``results/``.

``make format`` writes it. The files of a study's jobs stay in the repository; the package brings
along what chapters show of them. Of a study that has not ended, it says how far it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claims_figure import bounds

from metalearn_tut import claims
from metalearn_tut.claims.report import Finding, Report
from metalearn_tut.nb.recorded import STUDIES

RESULTS = Path(__file__).parents[1] / "results" / "claims"


def found(results: Path = RESULTS) -> dict[str, Any]:
    """Of every study: jobs that have ended, claims, and what stands beside them."""
    return {name: _of(Report.of(claims.load(name), results)) for name in claims.STUDIES}


def _of(report: Report) -> dict[str, Any]:
    rows = [_row(finding) for finding in (*report.claims(), *report.reported())]
    return {"done": len(report.records), "total": report.total, "rows": rows}


def _row(finding: Finding) -> dict[str, Any]:
    """A comparison; without numbers as long as one of its jobs is missing."""
    of, effect = finding.of, finding.effect
    row = {"arm": of.arm, "rival": of.rival, "split": of.split, "verdict": None}
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
