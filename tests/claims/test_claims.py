"""Claims: what is done stays done, what is missing decides nothing, and verdicts follow."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import background
import pytest
import toy_study

from metalearn_tut import claims
from metalearn_tut.claims import Claim, Job, records, report
from metalearn_tut.claims.records import NoProvenance, record_of, records_of, write_record
from metalearn_tut.claims.report import Report
from metalearn_tut.claims.runner import DIED, run_jobs
from metalearn_tut.claims.statistics import Effect
from metalearn_tut.cli import program as cli
from metalearn_tut.cli.options.studies import STUDIES as COMMAND_STUDIES

ROOT = Path(__file__).parents[2]


def values_of(outcome):
    return {name: record["values"]["values"] for name, record in outcome.records.items()}


# What stands in results/


@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_file_on_record_is_of_the_study_as_it_stands(name):
    study = claims.load(name)
    for kind, jobs in (("jobs", study.jobs(False)), ("pilots", study.pilots())):
        folder = report.jobs_folder(ROOT / "results" / "claims", study, kind)
        found = records_of(jobs, folder)
        assert found.keys() == {path.stem for path in folder.glob("*.json")}
        for record in found.values():
            assert record["commit"] != "unknown" and "+" not in record["commit"]


@pytest.mark.parametrize("name", claims.STUDIES)
def test_jobs_can_be_told_apart_and_quick_ones_are_others(name):
    study = claims.load(name)
    full, quick = study.jobs(False), study.jobs(True)
    for jobs in (full, quick, study.pilots()):
        assert len({job.name for job in jobs}) == len(jobs)
        assert all(json.loads(json.dumps(job.config)) == job.config for job in jobs)
    assert not {job.key for job in full} & {job.key for job in quick}
    assert study.name == name and study.hours > 0 and study.pilot


@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_claim_has_its_jobs_and_says_whose_it_is(name):
    study = claims.load(name)
    full = {job.name for job in study.jobs(False)}
    for one in (*study.claims, *study.reported):
        seeds = study.seeds_of(one)
        assert {f"{arm}-{s}" for arm in (one.arm, one.rival) for s in seeds} <= full
        assert len(seeds) >= 3
    assert all(claim.source and claim.ours for claim in study.claims)
    assert 1 <= len(study.claims) <= 5


def test_an_unknown_study_is_refused():
    with pytest.raises(ValueError, match=r"study must be one of 'hetrom'.*, got 'alchemy'"):
        claims.load("alchemy")


# Running jobs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All jobs without an interruption, and two that cannot succeed among them."""
    folder = tmp_path_factory.mktemp("whole")
    first, *others = toy_study.trainings()
    refused = Job("refused", {}, toy_study.refuse)
    killed = Job("killed", {}, toy_study.die_while_writing)
    jobs = [first, refused, killed, *others]
    return folder, jobs, run_jobs(jobs, folder, processes=2)


def test_a_job_that_fails_is_named_and_the_others_go_on(whole):
    folder, jobs, outcome = whole
    assert outcome.failed.keys() == {"refused", "killed"}
    log = folder / f"{jobs[1].key}.error.txt"
    assert outcome.failed["refused"] == f"RuntimeError: this one cannot be done (all of it: {log})"
    assert "Traceback" in log.read_text()
    assert outcome.failed["killed"] == DIED
    assert outcome.records.keys() == {f"train-{s}" for s in range(4)}


def test_a_record_says_everything(whole):
    folder, _, outcome = whole
    record = json.loads((folder / "train-0.json").read_text())
    assert record == outcome.records["train-0"] and record["config"] == {
        "seed": 0,
        "steps": toy_study.STEPS,
    }
    assert record["values"].keys() == {"name", "values", "seconds", "resumed"}
    assert record["values"]["seconds"] > 0 and record["values"]["resumed"] is False
    assert {"versions", "device", "commit", "date"} < record.keys()


@pytest.mark.slow
def test_processes_have_the_threads_asked_for_and_keep_their_memory(tmp_path):
    outcome = run_jobs([Job("about", {}, toy_study.circumstances)], tmp_path, threads=3)
    assert values_of(outcome)["about"] == {"memory": 1, "threads": 3}


@pytest.mark.slow
def test_a_process_that_dies_before_its_first_job_fails_that_job_by_name(tmp_path, capfd):
    jobs = [Job(name, {}, toy_study.circumstances) for name in ("a", "b")]
    outcome = run_jobs(jobs, tmp_path, threads=10**12)  # more than PyTorch can count
    assert outcome.failed == dict.fromkeys("ab", DIED)
    assert f"[2/2] b: failed: {DIED}" in capfd.readouterr().out


def test_a_record_is_whole_or_absent(whole):
    folder, jobs, _ = whole
    killed = jobs[2]  # when its record was written, and not yet in place
    assert list(folder.glob(".killed-*.json"))
    assert not (folder / "killed.json").exists() and record_of(killed, folder) is None
    again = run_jobs([killed], folder)
    assert again.records["killed"]["values"]["resumed"] is True and not again.failed


@pytest.mark.slow
def test_records_suffice_on_another_machine_and_another_configuration_is_run(
    whole, tmp_path, capsys
):
    folder, jobs, outcome = whole
    trained = [job for job in jobs if job.name.startswith("train")]
    for job in trained:  # the checkpoints are not there
        (tmp_path / f"{job.name}.json").write_bytes((folder / f"{job.name}.json").read_bytes())
    changed = replace(trained[1], config={"seed": 1, "steps": 3})
    capsys.readouterr()
    again = run_jobs([trained[0], changed, *trained[2:]], tmp_path / "work", records=tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3 of 4 jobs were done before" and len(said) == 2
    assert said[1].startswith("[4/4] train-1: ")
    new, old = values_of(again), values_of(outcome)
    assert new["train-1"] != old["train-1"]
    assert all(new[f"train-{s}"] == old[f"train-{s}"] for s in (0, 2, 3))


@pytest.mark.parametrize(
    ("names", "config", "said"),
    [
        (["a", "a"], {}, "names of their own, got 'a' twice"),
        (["a/b"], {}, "letters, digits, . _ -, got 'a/b'"),
        (["a"], {"pair": (1, 2)}, "configuration of job a must be JSON"),
        (["a"], {"set": {1}}, "configuration of job a must be JSON"),
    ],
)
def test_jobs_that_cannot_be_kept_apart_are_refused(tmp_path, names, config, said):
    with pytest.raises(ValueError, match=said):
        run_jobs([Job(name, config, toy_study.refuse) for name in names], tmp_path)


@pytest.mark.parametrize("commit", ["unknown", "0123abcd+changes"])
def test_code_that_no_commit_holds_makes_no_record(tmp_path, monkeypatch, commit):
    monkeypatch.setattr(records.provenance, "commit", lambda: commit)
    with pytest.raises(NoProvenance, match=r"Commit your changes .* or try it out with --quick"):
        run_jobs(toy_study.trainings()[:1], tmp_path, clean=True)
    assert not list(tmp_path.iterdir())


# Interruptions


def started(folder, monkeypatch):
    """The toy study in a process group of its own, two jobs done and two held at work."""
    monkeypatch.setenv("TOY_STUDY_HOLDS", "2")
    run = background.start(toy_study.__file__, folder, start_new_session=True)
    monkeypatch.delenv("TOY_STUDY_HOLDS")
    jobs = toy_study.trainings()
    while not all((folder / job.key / "last.safetensors").exists() for job in jobs[2:]):
        assert run.poll() is None, run.communicate()
        time.sleep(0.005)
    return run


def workers_are_gone(folder):
    pids = {int(path.read_text()) for path in folder.glob("*/process")}
    deadline = time.monotonic() + background.HANG
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(pids) and not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="asks /proc which processes live")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_study_leaves_nobody_at_work_and_goes_on_to_the_same_numbers(
    whole, tmp_path, monkeypatch, how
):
    run = started(tmp_path, monkeypatch)
    run.send_signal(how)
    run.communicate()
    assert workers_are_gone(tmp_path)
    jobs = toy_study.trainings()
    done = records_of(jobs, tmp_path)
    assert [*done] == ["train-0", "train-1"]
    kept = {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in done}
    outcome = run_jobs(jobs, tmp_path)
    assert values_of(outcome) == {job.name: values_of(whole[2])[job.name] for job in jobs}
    resumed = [n for n, record in outcome.records.items() if record["values"]["resumed"]]
    assert sorted(resumed) == ["train-2", "train-3"]
    assert {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in done} == kept


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="asks /proc which processes live")
def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(tmp_path, monkeypatch):
    run = started(tmp_path, monkeypatch)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to everyone
    out, err = run.communicate(timeout=background.HANG)
    assert run.returncode == 130 and err == ""
    assert out.splitlines()[-1] == (
        f"stopped; 2 of 4 jobs are done and kept in {tmp_path}: the same command goes on"
    )
    assert workers_are_gone(tmp_path)


# Verdicts


def kept(folder, study=toy_study.STUDY, **right):
    """Records of the toy study's jobs, by the right answers of each, and the report on them."""
    jobs = [Job(name.replace("_", "-"), {}, toy_study.refuse) for name in right]
    study = replace(study, jobs=lambda quick: jobs)
    for job, answers in zip(jobs, right.values(), strict=True):
        where = report.jobs_folder(folder, study)
        where.mkdir(parents=True, exist_ok=True)
        write_record(job, where, toy_study.answers(answers), seconds=3600)
    return Report.of(study, folder)


def test_verdicts_follow_from_the_files_alone(tmp_path):
    right = {"long_0": [9, 8, 9], "short_0": [5, 4, 5], "long_1": [9, 9, 9], "short_1": [5, 5, 5]}
    found = kept(tmp_path, **right)
    (claim,), (beside,) = found.claims(), found.reported()
    assert claim.verdict == "holds" and claim.effect.seeds == pytest.approx((0.4, 0.4))
    assert beside.effect is beside.verdict is None
    assert found.done and found.hours == 4
    said = report.table(found)
    assert said.splitlines()[0] == "1  holds          Practice helps."
    assert "+0.4000 ± 0.0000 over 2 trainings; ± 0.0000 over 6 tasks" in said
    assert said.splitlines()[-1] == "4 of 4 jobs done, 4.0 core-hours"


def test_a_missing_job_leaves_its_claim_undecided(tmp_path):
    found = kept(tmp_path, long_0=[9, 8], short_0=[5, 4], long_1=[9, 8])
    assert [one.verdict for one in found.claims()] == ["not decided"]
    assert found.claims()[0].sentence() == "jobs are missing"


def test_what_was_not_decided_says_what_could_have_been_seen(tmp_path):
    found = kept(tmp_path, long_0=[9, 8], short_0=[5, 4], long_1=[3, 3], short_1=[5, 6])
    (claim,) = found.claims()
    assert claim.verdict == "not decided" and "; could have seen 4." in claim.sentence()


def test_two_arms_may_have_splits_of_other_names(tmp_path):
    claim = replace(toy_study.CLAIM, split="test", rival_split="other")
    values = {
        "long-0": toy_study.answers([9, 9]),
        "short-0": {"other": toy_study.answers([1, 1])["test"]},
    }
    assert claim.effect(values, (0,)).mean == pytest.approx(0.8)


def test_the_criterion_says_what_decides():
    text = "a - b, 3 trainings: holds if the 95 % interval over trainings "
    claim = Claim("", "a", "b", kind="equivalent", margin=0.02)
    assert claim.criterion((0, 1, 2)).startswith(text + "lies between -0.02 and 0.02")
    assert Claim("", "a", "b", "hard").criterion((0, 1, 2)).startswith("a - b (hard), 3")
    with pytest.raises(ValueError, match="margin of a non-inferior claim"):
        Claim("", "a", "b", kind="non-inferior")


def test_what_takes_too_many_multiply_adds_does_not_hold():
    claim = Claim("", "gated", "whole", kind="non-inferior", margin=0.02, most_macs=0.5)
    effect = Effect((0.0, 0.001), 0.001, 100)
    assert claim.verdict(effect, 0.4) == "holds" and claim.verdict(effect, 0.6) == "does not hold"
    assert claim.verdict(None, None) == "not decided"
    assert claim.macs({"gated-0": {"macs": 0.4}, "gated-1": {"macs": 0.6}}, (0, 1)) == 0.5
    assert "and gated takes at most 0.5 of the multiply-adds" in claim.criterion((0, 1, 2))
    assert toy_study.CLAIM.macs({}, (0,)) is None


# The command


def command(capsys, *arguments):
    code = cli.run(["reproduce", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where the toy study goes, run from committed code."""
    monkeypatch.setattr(claims, "load", lambda name: toy_study.STUDY)
    monkeypatch.setattr("metalearn_tut.claims.runner.check_clean", lambda: None)
    return ["--processes", 1, "--out", tmp_path / "out", "--results", tmp_path / "results"]


@pytest.mark.slow
def test_a_quick_run_leaves_the_results_as_they_are(tmp_path, capsys, places):
    code, out, _ = command(capsys, "hetrom", "--quick", *places)
    assert code == 0 and "decides nothing" in out and not (tmp_path / "results").exists()
    quick = tmp_path / "out" / "quick" / "toy" / "jobs"
    assert {path.name for path in quick.iterdir()} == {"train-0.json", "train-1.json"}


def test_a_failed_job_means_exit_code_1_and_the_log_is_named(tmp_path, capsys, places, monkeypatch):
    study = replace(toy_study.STUDY, jobs=lambda quick: [Job("train-0", {}, toy_study.refuse)])
    monkeypatch.setattr(claims, "load", lambda name: study)
    code, out, _ = command(capsys, "hetrom", "--quick", *places)
    assert code == 1
    (log,) = (tmp_path / "out").rglob("*.error.txt")
    assert f"failed: train-0: RuntimeError: this one cannot be done (all of it: {log})" in out
    assert "1  not decided    Practice helps." in out


def test_only_some_jobs_can_be_run_and_a_pattern_that_fits_none_is_refused(capsys, places):
    study = replace(toy_study.STUDY, jobs=lambda quick: [Job("a-0", {}, toy_study.refuse)])
    assert command(capsys, "hetrom", "--only", "b-*", *places)[2].startswith(
        "metalearn-tut: only must match a job of toy, got 'b-*'"
    )
    with pytest.raises(ValueError, match="only must match"):
        report.reproduce(study, only="a-1")


def test_the_list_says_what_decides(capsys):
    code, out, _ = command(capsys, "--list")
    words = " ".join(out.split())
    assert code == 0
    for study in map(claims.load, claims.STUDIES):
        assert f"{study.name}: {study.paper}" in words
        assert all(c.criterion(study.seeds) in words for c in study.claims)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one study (hetrom"),
        (["hetrom", "--all"], "name one study (hetrom"),
        (["alchemy"], "'alchemy' is not"),
        (["hetrom", "--quick", "--pilot"], "two different runs"),
        (["hetrom", "--processes", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_mistake_is_answered_in_one_line(capsys, arguments, said):
    code, _, err = command(capsys, *arguments)
    assert code == 2 and said in err and err.count("\n") == 1


def test_the_choices_are_the_studies():
    assert tuple(claims.STUDIES) == COMMAND_STUDIES


def test_the_names_of_the_studies_cost_no_import_of_pytorch():
    say = "import sys, metalearn_tut.claims as c; print(len(c.STUDIES), 'torch' in sys.modules)"
    out, err = background.start("-c", say).communicate(timeout=background.HANG)
    assert out == f"{len(claims.STUDIES)} False\n", err
