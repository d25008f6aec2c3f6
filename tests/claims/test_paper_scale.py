"""The scripts at the papers' scale are the studies' own jobs, larger and on another device."""

import importlib
from pathlib import Path

import pytest

from metalearn_tut.claims import records

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tools" / "paper_scale"
SCRIPTS = ("anp", "hetrom", "metagater", "tsmd")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return lambda name: importlib.import_module(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_claim_has_its_jobs_on_the_device(script, name):
    study = script(name).study("cuda")
    jobs = {job.name: job for job in study.jobs(False)}
    assert study.claims and study.name.endswith("_scale")
    for claim in study.claims:
        assert {f"{arm}-{s}" for arm in (claim.arm, claim.rival) for s in study.seeds} <= set(jobs)
    for job in jobs.values():
        said = str(job.config)
        assert "'device': 'cuda'" in said
        assert "'name': 'maml'" not in said or "'engine': 'vectorised'" in said
    assert not {job.key for job in study.jobs(True)} & {job.key for job in jobs.values()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_on_a_processor_nothing_changes_but_the_device(script, name):
    one, other = (script(name).study(device).jobs(False)[0] for device in ("cpu", "cuda"))
    assert one.key != other.key and one.name == other.name


def test_code_that_is_not_committed_makes_no_result(script, monkeypatch, tmp_path):
    monkeypatch.setattr(records.provenance, "commit", lambda: "unknown")
    places = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["hetrom.py", *places])
    hetrom = script("hetrom")
    with pytest.raises(records.NoProvenance, match="must say which code made it"):
        script("at_scale").main(hetrom.__doc__, hetrom.study)
    assert not (tmp_path / "results").exists()
