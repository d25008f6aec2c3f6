"""``reproduce`` when jobs fail or files are damaged: what cannot be decided is not decided."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import toy_study

from metalearn_tut import claims
from metalearn_tut.claims import Results, report
from metalearn_tut.claims.records import record_of, write_record
from metalearn_tut.claims.runner import Outcome
from metalearn_tut.cli import program as cli

ROOT = Path(__file__).parents[2]
RECORDED = {
    path.stem: json.loads(path.read_text("utf-8"))["values"]
    for path in sorted((ROOT / "results" / "claims").glob("*.json"))
}
WHY = "RuntimeError: out of memory (all of it: runs/claims/x.error.txt)"


class Asked(Results):
    """Results that remember which jobs a criterion asked for, by name or by ``in``."""

    def __init__(self, values):
        super().__init__(values)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.names.add(name)
        return super().__contains__(name)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize("name", RECORDED)
def test_a_claim_is_decided_exactly_if_all_jobs_that_it_asks_for_have_ended(name):
    """Each claim of each study without any of six of its jobs, and without all of them."""
    jobs = RECORDED[name]["jobs"]
    for claim in claims.load(name).claims:
        asked = Asked(jobs)
        claim.verdict(asked)
        used = asked.names & jobs.keys()
        assert used or (name, claim.number) == ("abp", 1)  # which follows from the architecture
        some = sorted(used)[:: 1 + len(used) // 6]
        for failing in [*({job} for job in some), *([used] if used else [])]:
            left = {n: v for n, v in jobs.items() if n not in failing}
            verdict = claim.verdict(Results(left, dict.fromkeys(failing, WHY)))
            assert verdict.holds is None, (claim.number, failing)
            assert any(verdict.sentence == f"not decided: job {n} failed: {WHY}" for n in failing)
        others = jobs.keys() - used
        left = Results({n: jobs[n] for n in used}, dict.fromkeys(others, WHY))
        assert claim.verdict(left) == claim.verdict(Results(jobs)), claim.number


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """``told(study, *failing)``: exit code, output and files of a reproduction with these jobs."""

    def run(name, *failing):
        jobs = RECORDED[name]["jobs"]
        outcome = Outcome(
            {n: {"commit": "", "values": {"values": v}} for n, v in jobs.items()},
            dict.fromkeys(failing, WHY),
        )
        for one in failing:
            del outcome.records[one]
        monkeypatch.setattr(report, "run_jobs", lambda *_, **__: outcome)
        places = ["--out", tmp_path / "out", "--results", tmp_path / "results"]
        code = cli.run(["reproduce", name, *map(str, places)])
        return code, capsys.readouterr().out, (tmp_path / "results").exists()

    return run


@pytest.mark.parametrize("failing", [("conv64-anp-2",), ("conv64-anp-2", "filters")])
def test_a_later_seed_that_fails_leaves_the_other_claims_decided_and_is_named(told, failing):
    code, out, written = told("anp", *failing)
    assert code == 1 and not written
    assert out.splitlines()[-1].startswith("no result is written")
    for name in failing:
        assert f"failed: {name}: {WHY}" in out.splitlines()
    words = {row[0]: " ".join(row[1:4]) for row in map(str.split, out.splitlines()) if row}
    kept = RECORDED["anp"]["claims"]
    undecided = {number for number in kept if words[number].startswith("not decided")}
    assert undecided and undecided != kept.keys()
    for number in kept.keys() - undecided:
        said = "holds" if kept[number]["holds"] else "does not hold"
        assert words[number].startswith(said), number


def test_all_jobs_of_a_study_can_fail(told):
    code, out, written = told("tsmd", *RECORDED["tsmd"]["jobs"])
    assert code == 1 and not written
    assert out.count("not decided: job") == len(RECORDED["tsmd"]["claims"])


def test_the_path_of_a_log_is_not_broken_over_lines():
    path = "/a folder/" + 30 * "long-name/" + "x.error.txt"
    verdict = toy_study.CLAIM.verdict(Results({}, {"train-0": f"failed (all of it: {path})"}))
    said = report.table([(toy_study.CLAIM, verdict)])
    assert path.split()[-1] + ")" in said.split()


# Files of jobs

JOB = toy_study.trainings()[0]


@pytest.mark.parametrize(
    "damaged",
    [
        *(b"", b"{", b"null", b"[]", b"3", b'"name"', b"\xff\xfe\x00"),
        *(b"{}", b'{"values": null, "config": null}', b'{"values": [1], "config": {}}'),
    ],
)
def test_a_damaged_record_is_none_and_its_job_is_done_again(tmp_path, damaged):
    write_record(JOB, tmp_path, {"accuracy": [1.0]}, seconds=1)
    (file,) = tmp_path.iterdir()
    assert record_of(JOB, tmp_path)["values"]["values"] == {"accuracy": [1.0]}
    file.write_bytes(damaged)
    assert record_of(JOB, tmp_path) is None


@pytest.mark.parametrize("part", ["name", "values", "seconds", "resumed"])
def test_a_record_without_one_of_its_parts_is_none(tmp_path, part):
    write_record(JOB, tmp_path, {}, seconds=1)
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text("utf-8"))
    del record["values"][part]
    file.write_text(json.dumps(record))
    assert record_of(JOB, tmp_path) is None


def test_a_record_of_another_configuration_under_the_same_name_is_none(tmp_path):
    write_record(JOB, tmp_path, {}, seconds=1)
    (file,) = tmp_path.iterdir()
    other = replace(JOB, config={"seed": 8})
    file.rename(tmp_path / f"{other.key}.json")
    assert record_of(other, tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", '{"config": 1}', '{"config": {}}', '{"config": {"jobs": {}}}'),
        *('{"config": {"criteria": 2, "jobs": {}}}', '{"config": {"criteria": {}, "jobs": null}}'),
    ],
)
def test_a_damaged_result_is_told_whatever_is_missing(tmp_path, text):
    path = tmp_path / "toy.json"
    path.write_text(text)
    assert report.stale(toy_study.STUDY, path) == (
        f"{path} is damaged: run metalearn-tut reproduce toy again"
    )
