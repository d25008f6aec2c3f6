"""What the package brings along of the studies is what their files have."""

import json

import pytest
import recorded_studies

from metalearn_tut import claims
from metalearn_tut.claims.report import Report
from metalearn_tut.claims.statistics import HOLDS
from metalearn_tut.nb import recorded


def without_progress(studies):
    """Only what chapters state: how many jobs have ended changes while a study runs."""
    return {name: study["rows"] for name, study in studies.items()}


def test_the_package_has_the_findings_of_the_results():
    kept = json.loads(recorded.STUDIES.read_text("utf-8"))
    assert without_progress(kept) == without_progress(recorded_studies.found()), "run make format"


def test_a_study_that_has_not_begun_has_rows_without_numbers(tmp_path):
    path = tmp_path / "studies.json"
    assert recorded_studies.write(path, tmp_path) and not recorded_studies.write(path, tmp_path)
    study = json.loads(path.read_text("utf-8"))["hetrom"]
    assert study["done"] == 0 < study["total"]
    of = claims.load("hetrom")
    assert study["rows"][2].pop("bounds") == [-0.01]  # nothing is lost: a point as nothing
    assert study["rows"] == [
        {"arm": c.arm, "rival": c.rival, "split": c.split, "verdict": None}
        for c in (*of.claims, *of.reported)
    ]


def test_a_comparison_whose_jobs_have_ended_has_its_numbers(monkeypatch, tmp_path):
    claim = claims.load("hetrom").claims[0]

    def records(jobs, folder):
        answers = {job.name: {"test": [25 if claim.arm in job.name else 20] * 3} for job in jobs}
        wanted = [name for name in answers if name.rpartition("-")[0] in (claim.arm, claim.rival)]
        return {name: {"values": {"values": answers[name]}} for name in wanted}

    monkeypatch.setattr("metalearn_tut.claims.report.records_of", records)
    monkeypatch.setattr("metalearn_tut.claims.study.accuracies", lambda a: [x / 25 for x in a])
    first, *others = recorded_studies.found(tmp_path)["hetrom"]["rows"]
    assert first["seeds"] == pytest.approx([0.2] * 5)
    assert first["over_tasks"] == 0 and first["verdict"] == HOLDS
    assert all("seeds" not in row for row in others)


def test_the_table_of_all_learners_is_there_once_all_jobs_have_ended(monkeypatch, tmp_path):
    costs = {"parameters": 10, "macs": 20, "bytes": 30, "learner_bytes": 40}

    def records(jobs, folder):
        right = {job.name: {"right": "3 4", "of": 5} for job in jobs}
        return {n: {"values": {"values": {"test": r, "cost": costs}}} for n, r in right.items()}

    assert recorded_studies.found(tmp_path)["compact"]["table"] == {}
    monkeypatch.setattr("metalearn_tut.claims.report.records_of", records)
    compact = Report.of(claims.load("compact"), tmp_path)
    monkeypatch.setattr(Report, "claims", lambda self: [])
    monkeypatch.setattr(Report, "reported", lambda self: [])
    table = recorded_studies._of(compact)["table"]
    assert len(table) == 12 and "tsmd-anp50" in table
    assert table["maml8"] == {"accuracy": 0.7, "over_seeds": 0.0, **costs}
