"""Files of the runs at the papers' scale are what the scripts, as they stand, would write."""

import importlib
import json
import random
from pathlib import Path

import pytest
from metalearn_tut.claims.metagater.filters import CHOICES

from metalearn_tut.claims.runner import Outcome

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tools" / "paper_scale"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "at_scale")
FILES = {
    "abp": ["abp"],
    "anp": ["anp_1shot", "anp_5shot"],
    "hetrom": ["hetrom_1shot", "hetrom_5shot"],
    "metagater": ["metagater"],
    "tsmd": ["tsmd_1shot", "tsmd_5shot"],
}


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("at_scale")


def problems(scale, folder):
    """What is wrong with the files of a folder, by the script that wrote each."""
    found = []
    for path in sorted(folder.glob("*.json")):
        script = importlib.import_module(path.stem.partition("_")[0])
        found.append(scale.stale(path, script.jobs, script.summary))
    return [problem for problem in found if problem]


def made_up(script, job):
    """Values of a job, all that any summary asks for: 20 tasks, nodes or images."""
    draw = random.Random(job.key)
    splits = ["test", "5", "10", "20", *(f"0.{n}" for n in range(10, 90, 5))]
    splits += [f"{choice} {support}" for choice in ("learned", *CHOICES) for support in (5, 10, 20)]
    values = {split: " ".join(str(draw.randint(0, 1)) for _ in range(20)) for split in splits}
    macs = draw.uniform(0.1, 1)
    by_support = script == "metagater"
    return values | {"answers": 100, "macs": dict.fromkeys(splits, macs) if by_support else macs}


@pytest.fixture
def run(scale, monkeypatch, tmp_path):
    """Run a script with made-up values for its jobs; where it has written to."""

    def runner(script, *options, failed=()):
        def run_jobs(jobs, folder):
            values = {job.name: {"values": made_up(script, job)} for job in jobs}
            return Outcome({n: {"values": v} for n, v in values.items()}, dict(failed))

        folder = tmp_path / "results"
        monkeypatch.setattr(scale, "run_jobs", run_jobs)
        monkeypatch.setattr(scale, "RESULTS", folder)
        monkeypatch.setattr("sys.argv", [script, "--out", str(tmp_path / "out"), *options])
        importlib.import_module(script).main()
        return folder

    return runner


def test_what_is_on_file_is_of_the_scripts_as_they_stand(scale):
    assert scale.RESULTS == ROOT / "results" / "paper_scale"
    assert problems(scale, scale.RESULTS) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_writes_files_that_it_knows_again(scale, run, script):
    folder = run(script, "--device", "cuda")
    assert sorted(path.stem for path in folder.iterdir()) == FILES[script]
    assert problems(scale, folder) == []


@pytest.mark.parametrize(("script", "option"), [("abp", "--depths=32"), ("metagater", "--seeds=4")])
def test_a_part_of_the_jobs_is_known_again_too(scale, run, script, option):
    folder = run(script, option)
    (path,) = folder.iterdir()
    assert 0 < len(json.loads(path.read_text())["config"]["jobs"]) <= 5
    assert problems(scale, folder) == []


def test_a_tiny_run_is_no_result(run, tmp_path):
    assert not run("hetrom", "--tiny", "--shots", "5").exists()
    assert (tmp_path / "out" / "hetrom_5shot.json").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_of_other_jobs_or_other_numbers_is_told(scale, run, script):
    folder = run(script)
    path = min(folder.iterdir())
    for other in set(folder.iterdir()) - {path}:
        other.unlink()
    whole = path.read_text()
    first, second = list(json.loads(whole)["config"]["jobs"])[:2]

    def changed(edit):
        result = json.loads(whole)
        edit(result["config"], result["values"])
        path.write_text(json.dumps(result))
        (said,) = problems(scale, folder)
        return said

    start = f"{path} is of another configuration (job "
    assert changed(lambda config, _: config["jobs"][second].update(seed=9)) == f"{start}{second})"
    assert changed(lambda config, _: config["jobs"].pop(first)) == f"{start}{first})"
    assert changed(lambda config, _: config["jobs"].update(odd={})) == f"{start}odd)"
    others = changed(lambda config, _: config["arguments"].__setitem__(1, "another"))
    assert others.startswith(start) and first in others and second in others
    (part, *_) = set(json.loads(whole)["values"]) & {"accuracy", "rows"}
    told = changed(lambda _, values: values.__setitem__(part, []))
    assert told == f"{path} is not what its jobs amount to ({part})"
    assert changed(lambda _, values: values.pop("jobs")) == f"{path} is damaged"
    path.write_text(whole[:-9])
    assert problems(scale, folder) == [f"{path} is damaged"]


def test_a_failed_job_means_no_file(run, tmp_path):
    with pytest.raises(SystemExit, match=r"failed: \{'mean-0': 'why'\}"):
        run("hetrom", failed={"mean-0": "why"}.items())
    assert not (tmp_path / "results").exists()
