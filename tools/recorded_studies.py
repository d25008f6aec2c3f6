"""Copy what the studies found into the package: ``python tools/recorded_studies.py``.

A chapter draws its forest plot wherever it runs; the files in ``results/`` are not installed. A
test fails when the copy is not what is on file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalearn_tut.claims import STUDIES, load
from metalearn_tut.claims.report import Finding, Report
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.nb.studies import FILE

ROOT = Path(__file__).parents[1]


def of(report: Report) -> dict[str, Any]:
    """How far a study is, and its comparisons with their numbers, as far as they are known."""
    found = [_row(one) for one in (*report.claims(), *report.reported())]
    return {"done": len(report.records), "total": report.total, "found": found}


def _row(finding: Finding) -> dict[str, Any]:
    of = finding.of
    theirs = of.rival_split or of.split
    row: dict[str, Any] = {"arm": _side(of.arm, of.split), "rival": _side(of.rival, theirs)}
    row["verdict"] = finding.verdict
    if finding.effect is not None:
        row["trainings"] = [round(seed, 5) for seed in finding.effect.seeds]
        row["over_tasks"] = round(finding.effect.over_tasks, 5)
        row["mean"] = round(finding.effect.mean, 5)
        row["over_trainings"] = round(finding.effect.over_seeds, 5)
    return row


def _side(arm: str, split: str) -> str:
    """An arm, and which of its answers where they are not those to the test tasks."""
    return arm if split == "test" else f"{arm}: {split}"


def everything(results: Path = ROOT / "results" / "claims") -> dict[str, Any]:
    """All studies, by name."""
    return {name: of(Report.of(load(name), results)) for name in STUDIES}


def main() -> None:
    """Write the copy."""
    with atomic_write(FILE) as whole:
        whole.write_text(json.dumps(everything(), indent=1) + "\n", "utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
