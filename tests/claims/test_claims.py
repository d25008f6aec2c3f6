"""Claims: what is done stays done, what is stale is told, and a verdict follows from numbers."""

import json
import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import background
import pytest
import toy_study

from metalearn_tut import claims
from metalearn_tut.claims import Job, Results
from metalearn_tut.claims.records import folder_of_job, record_of, write_record
from metalearn_tut.claims.report import stale
from metalearn_tut.claims.runner import DIED, run_jobs
from metalearn_tut.cli import program as cli
from metalearn_tut.cli.options.studies import STUDIES as COMMAND_STUDIES

ROOT = Path(__file__).parents[2]


def values_of(outcome):
    return {name: record["values"]["values"] for name, record in outcome.records.items()}


# What stands in results/


@pytest.mark.parametrize("name", claims.STUDIES)
def test_a_result_on_file_is_of_the_study_as_it_stands(name):
    path = ROOT / "results" / "claims" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"not run yet: metalearn-tut reproduce {name}")
    study = claims.load(name)
    assert stale(study, path) is None
    recorded = json.loads(path.read_text())["values"]
    for claim in study.claims:  # and its verdicts are what its numbers say
        again = json.loads(json.dumps(vars(claim.verdict(Results(recorded["jobs"])))))
        kept = recorded["claims"][str(claim.number)]
        assert same(again, {key: kept[key] for key in again}), claim.number


def same(found, expected):
    """Equal, numbers but for the last digits: another Python or torch sums in another order."""
    if isinstance(expected, dict):
        keys = found.keys() == expected.keys()
        return keys and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-15)
    return found == expected and type(found) is type(expected)


def test_what_is_the_same_is_told_from_what_is_not():
    a = {"mean": 0.7129166666666666, "seeds": [0.5, 1], "holds": True, "said": "0.713"}
    assert same({**a, "mean": 0.7129166666666668}, a)
    for other in ({"mean": 0.71291667}, {"seeds": [0.5]}, {"holds": 1}, {"said": "0.712"}):
        assert not same({**a, **other}, a)
    assert not same({"mean": 0.7129166666666666}, a)


@pytest.mark.parametrize("name", claims.STUDIES)
def test_jobs_can_be_told_apart_and_quick_ones_are_others(name):
    study = claims.load(name)
    full, quick = study.jobs(False), study.jobs(True)
    for jobs in (full, quick):
        assert len({job.name for job in jobs}) == len(jobs)
        assert all(json.loads(json.dumps(job.config)) == job.config for job in jobs)
    assert not {job.key for job in full} & {job.key for job in quick}
    assert [claim.number for claim in study.claims] == list(range(1, len(study.claims) + 1))
    assert study.name == name


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
    assert outcome.failed["refused"].startswith(
        "RuntimeError: this one cannot be done (all of it: "
    )
    assert "Traceback" in (folder / f"{jobs[1].key}.error.txt").read_text()
    assert outcome.failed["killed"] == DIED
    assert outcome.records.keys() == {f"train-{s}" for s in range(4)}


def test_a_record_says_everything(whole):
    folder, jobs, outcome = whole
    record = json.loads((folder / f"{jobs[0].key}.json").read_text())
    assert record == outcome.records["train-0"] and record["config"] == {
        "seed": 0,
        "steps": toy_study.STEPS,
    }
    assert record["values"].keys() == {"name", "values", "seconds", "resumed"}
    assert record["values"]["seconds"] > 0 and record["values"]["resumed"] is False
    assert {"versions", "device", "commit", "date"} < record.keys()


@pytest.mark.slow
def test_processes_have_the_threads_and_the_environment_asked_for(tmp_path):
    before = dict(os.environ)
    settings = {"threads": 3, "environment": {"MALLOC_TRIM_THRESHOLD_": "99"}}
    outcome = run_jobs([Job("about", {}, toy_study.circumstances)], tmp_path, **settings)
    assert values_of(outcome)["about"] == {"malloc": "99", "threads": 3}
    assert dict(os.environ) == before


@pytest.mark.slow
def test_a_process_that_dies_before_its_first_job_fails_that_job_by_name(tmp_path, capfd):
    jobs = [Job(name, {}, toy_study.circumstances) for name in ("a", "b")]
    outcome = run_jobs(jobs, tmp_path, threads=10**12)  # more than PyTorch can count
    assert outcome.failed == dict.fromkeys("ab", DIED)
    assert f"[2/2] b: failed: {DIED}" in capfd.readouterr().out


def test_a_record_is_whole_or_absent(whole):
    folder, jobs, _ = whole
    killed = jobs[2]  # when its record was written, and not yet in place
    assert list(folder.glob(f".{killed.key}-*.json"))
    assert not (folder / f"{killed.key}.json").exists() and record_of(killed, folder) is None
    again = run_jobs([killed], folder)
    assert again.records["killed"]["values"]["resumed"] is True and not again.failed


@pytest.mark.slow
def test_another_configuration_is_run_and_the_others_are_kept(whole, capsys):
    folder, jobs, outcome = whole
    trained = [job for job in jobs if job.name.startswith("train")]
    changed = replace(trained[1], config={"seed": 1, "steps": 3})
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    capsys.readouterr()
    again = run_jobs([trained[0], changed, *trained[2:]], folder)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3 of 4 jobs were done before" and len(said) == 2
    assert said[1].startswith("[4/4] train-1: ")
    new, old = values_of(again), values_of(outcome)
    assert new["train-1"] != old["train-1"]
    assert all(new[f"train-{s}"] == old[f"train-{s}"] for s in (0, 2, 3))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_record_that_is_not_the_jobs_is_not_taken(whole, tmp_path):
    folder, jobs, _ = whole
    record = json.loads((folder / f"{jobs[0].key}.json").read_text())
    path = tmp_path / f"{jobs[0].key}.json"
    path.write_text(json.dumps(record))
    assert record_of(jobs[0], tmp_path) == record
    path.write_text(json.dumps({**record, "config": {"seed": 0, "steps": 1}}))
    assert record_of(jobs[0], tmp_path) is None
    path.write_text("{")
    assert record_of(jobs[0], tmp_path) is None


def test_what_another_job_left_is_taken_once_it_has_ended(tmp_path):
    other, folder = Job("other", {"seed": 1}, toy_study.refuse), tmp_path / "second" / "one-0"
    here, there = (tmp_path / study / other.key for study in ("second", "first"))
    own = folder / "other"
    for made in (there, here):
        made.mkdir(parents=True)
        assert folder_of_job(other, folder, "first") == own  # it is at work, or was cut short
    write_record(other, tmp_path / "first", {}, seconds=1)
    assert folder_of_job(other, folder) == own and folder_of_job(other, folder, "first") == there
    write_record(other, tmp_path / "second", {}, seconds=1)
    assert folder_of_job(other, folder) == folder_of_job(other, folder, "first") == here
    here.rmdir()  # its record is kept and its checkpoints are not
    assert folder_of_job(other, folder) == own
    assert folder_of_job(replace(other, config={"seed": 2}), folder, "first") == own


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
def test_a_killed_study_leaves_nobody_at_work_and_goes_on_to_the_same_numbers(
    whole, tmp_path, monkeypatch
):
    run = started(tmp_path, monkeypatch)
    run.kill()
    run.communicate()
    assert workers_are_gone(tmp_path)
    jobs = toy_study.trainings()
    done = [job for job in jobs if record_of(job, tmp_path)]
    assert [job.name for job in done] == ["train-0", "train-1"]
    kept = {job.key: (tmp_path / f"{job.key}.json").stat().st_mtime_ns for job in done}
    outcome = run_jobs(jobs, tmp_path)
    assert values_of(outcome) == {job.name: values_of(whole[2])[job.name] for job in jobs}
    resumed = [n for n, record in outcome.records.items() if record["values"]["resumed"]]
    assert sorted(resumed) == ["train-2", "train-3"]
    assert {key: (tmp_path / f"{key}.json").stat().st_mtime_ns for key in kept} == kept


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


# Verdicts, and what is kept of them


def test_a_claim_without_its_results_is_not_decided():
    verdict = toy_study.CLAIM.verdict(Results({"train-0": {"accuracy": [1.0] * 20}}))
    assert verdict.holds is None and verdict.sentence == "not decided: job train-1 has no result"
    with pytest.raises(KeyError):  # of the experiment itself: a mistake, and none to hide
        toy_study.CLAIM.verdict(Results({"train-0": {}, "train-1": {}}))


def command(capsys, *arguments):
    code = cli.run(["reproduce", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_a_study_is_run_from_the_command_line_and_told_when_it_is_stale(
    tmp_path, capsys, monkeypatch
):
    study = replace(toy_study.STUDY, jobs=lambda quick: toy_study.trainings(quick, steps=20)[:2])
    monkeypatch.setattr(claims, "load", lambda name: study)
    places = ["--out", tmp_path / "out", "--results", tmp_path / "results"]
    code, out, _ = command(capsys, "hetrom", "--quick", "--processes", 1, *places)
    assert code == 0 and "decide nothing" in out and not (tmp_path / "results").exists()
    assert (tmp_path / "out" / "toy" / "quick.json").exists()

    code, out, _ = command(capsys, "hetrom", "--processes", 1, *places)
    path = tmp_path / "results" / "toy.json"
    result = json.loads(path.read_text())
    assert code == 0 and out.splitlines()[-1] == f"written to {path}"
    assert "1  holds          Points can be told apart." in out
    assert result["values"]["claims"]["1"]["holds"] is True
    assert result["values"]["claims"]["1"]["criterion"] == study.claims[0].criterion
    assert result["config"]["jobs"]["train-1"] == {"seed": 1, "steps": 20}
    assert result["values"]["jobs"].keys() == {"train-0", "train-1"}
    assert result["values"]["seconds"] > 0

    assert stale(study, path) is None
    longer = replace(study, jobs=lambda quick: toy_study.trainings(quick, steps=21)[:2])
    assert stale(longer, path) == (
        f"{path} is of another configuration (job train-0, train-1): "
        "run metalearn-tut reproduce toy again"
    )
    fewer = replace(study, jobs=lambda quick: toy_study.trainings(quick, steps=20)[:1])
    assert "(job train-1)" in stale(fewer, path)
    other = replace(study, claims=(replace(toy_study.CLAIM, criterion="above 0.5"),))
    assert "(criterion 1)" in stale(other, path)


def test_a_failed_job_means_exit_code_1_and_no_result(tmp_path, capsys, monkeypatch):
    study = replace(toy_study.STUDY, jobs=lambda quick: [Job("train-0", {}, toy_study.refuse)])
    monkeypatch.setattr(claims, "load", lambda name: study)
    monkeypatch.setattr(claims, "STUDIES", {"toy": None, "toy_second": None})  # of eleven
    code, out, _ = command(
        capsys, "--all", "--out", tmp_path / "out", "--results", tmp_path / "results"
    )
    assert code == 1 and not (tmp_path / "results").exists()
    assert "[1/1] train-0: failed: RuntimeError: this one cannot be done" in out
    (log,) = (tmp_path / "out").rglob("*.error.txt")
    failed = f"failed: RuntimeError: this one cannot be done (all of it: {log})"
    assert f"not decided: job train-0 {failed}" in " ".join(out.split())
    assert out.splitlines()[-2:] == [
        failed.replace("failed: ", "failed: train-0: "),
        "no result is written: the same command does again what failed",
    ]


def test_the_list_says_what_decides(capsys):
    code, out, _ = command(capsys, "--list")
    assert code == 0
    for name in claims.STUDIES:
        words = " ".join(out.split())
        assert f"{name}: {claims.load(name).paper}" in words
        assert all(" ".join(c.criterion.split()) in words for c in claims.load(name).claims)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one study (hetrom"),
        (["hetrom", "--all"], "name one study (hetrom"),
        (["alchemy"], "'alchemy' is not"),
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
