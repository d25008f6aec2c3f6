"""Killed at any moment, files cut off anywhere, a full disk, a folder that cannot be written to.

METALEARN_TUT_SLOW=1 kills each kind of run at ten moments, and a reproduction at six;
METALEARN_TUT_KILLS=50 makes fifty of both, which takes most of an hour.
"""

import errno
import json
import os
import shutil
import subprocess
import sys

import background
import fault_runs
import fault_study
import federated_cases
import numpy as np
import pytest
import torch
import toy_study
import training_runs
from fault_runs import RUNS, contents, differences

from metalearn_tut.block_voting import Recipe, train_epochs
from metalearn_tut.claims import Job
from metalearn_tut.claims.records import record_of, write_record
from metalearn_tut.claims.runner import run_jobs
from metalearn_tut.cli import program as cli
from metalearn_tut.federated import run_rounds
from metalearn_tut.files import cache
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.saliency import load_round, load_sparse, save_sparse
from metalearn_tut.tasks import files, glyphs
from metalearn_tut.training import checkpoint

SLOW = os.environ.get("METALEARN_TUT_SLOW") == "1"
KILLS = int(os.environ.get("METALEARN_TUT_KILLS", "0"))


# Killed


def trials_of(script, moments, folder):
    """What the script printed about each kill."""
    run = subprocess.run(
        [sys.executable, script.__file__, str(moments), str(folder)],
        capture_output=True,
        text=True,
        timeout=background.HANG * (1 + moments),
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the time of a process")
def test_a_run_killed_at_a_random_moment_ends_as_if_it_had_not_been(tmp_path):
    moments = KILLS or (10 if SLOW else 1)
    trials = trials_of(fault_runs, moments, tmp_path)
    assert [trial["kind"] for trial in trials] == [kind for kind in RUNS for _ in range(moments)]
    assert [trial for trial in trials if trial["wrong"]] == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the time of a process")
@pytest.mark.skipif(not (SLOW or KILLS), reason="takes minutes: set METALEARN_TUT_SLOW=1")
def test_a_reproduction_killed_at_a_random_moment_ends_as_if_it_had_not_been(tmp_path):
    moments = KILLS or 6
    trials = trials_of(fault_study, moments, tmp_path)
    assert len(trials) == moments
    assert {trial["victim"] for trial in trials} == set(fault_study.VICTIMS)
    assert [trial for trial in trials if trial["status"] or trial["wrong"]] == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    left = tmp_path / ".last-0123abcd.safetensors"
    others = [".last-0123abcd.json", ".last-notahexa.safetensors", ".best-0123abcd.safetensors"]
    for path in (left, *(tmp_path / name for name in [*others, "last.safetensors"])):
        path.write_text("")
    cache.remove_partial(tmp_path / "last.safetensors", older_than=60)
    assert left.exists()  # perhaps somebody is writing it
    cache.remove_partial(tmp_path / "last.safetensors")
    assert sorted(contents(tmp_path)) == sorted([*others, "last.safetensors"])
    cache.remove_partial(tmp_path / "absent" / "last.safetensors")


# Cut off


def pruned_learner(out):
    RUNS["pruning"](out)
    learner = training_runs.learner()
    learner = type(learner)(learner.model, inner_lr=0.2, inner_steps=2)
    load_round(out / "round_03.safetensors", learner)
    return learner


def of_training(folder):
    training_runs.resumable(folder)
    learner = training_runs.learner(seed=3)
    path = folder / "last.safetensors"
    return path, learner.meta_parameters(), lambda: checkpoint.load(path, learner)


def of_a_resumed_training(folder):
    training_runs.resumable(folder)
    learner = training_runs.learner(seed=3)
    path = folder / "last.safetensors"
    return path, learner.meta_parameters(), lambda: training_runs.resumable(folder, base=learner)


def of_a_round(folder):
    learner = pruned_learner(folder)
    path = folder / "round_02.safetensors"
    return path, learner.meta_parameters(), lambda: load_round(path, learner)


def of_a_sparse_file(folder):
    learner, path = pruned_learner(folder), folder / "sparse.safetensors"
    metas = learner.meta_parameters()
    save_sparse(path, metas, learner.masks)
    return path, metas, lambda: load_sparse(path, metas)


def of_an_epoch(folder):
    path, data = folder / "epochs.safetensors", (torch.randn(20, 9), torch.arange(20) % 3)

    def train(network):
        train_epochs(network, data, Recipe(1), file=path, progress=False)

    train(torch.nn.Linear(9, 3))
    network = torch.nn.Linear(9, 3)
    return path, network.state_dict(), lambda: train(network)


def of_a_server(folder):
    RUNS["federated"](folder)
    federation = federated_cases.maml_federation(rounds=12, fraction=0.7, local_steps=2)
    path = folder / "server.safetensors"
    metas = federation.learner.meta_parameters()
    return path, metas, lambda: run_rounds(federation, out=folder, resume=True)


FILES = {
    made.__name__.removeprefix("of_"): made
    for made in (
        of_training,
        of_a_resumed_training,
        of_a_round,
        of_a_sparse_file,
        of_an_epoch,
        of_a_server,
    )
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_off_anywhere_is_refused_and_nothing_of_it_is_loaded(tmp_path, kind):
    path, tensors, load = FILES[kind](tmp_path)
    data, before = path.read_bytes(), {n: t.detach().clone() for n, t in tensors.items()}
    left = sorted(contents(tmp_path))
    assert len(data) > 500
    for size in range(0, len(data), 100):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=rf"{path.name} is damaged, or not a") as caught:
            load()
        assert "\n" not in str(caught.value)
        assert all(torch.equal(tensors[n], before[n]) for n in before), size
        assert sorted(contents(tmp_path)) == left, size
    path.write_bytes(data)
    load()  # and whole it is taken


def test_the_record_of_a_job_cut_off_anywhere_is_no_record(tmp_path):
    job = Job("train-0", {"seed": 0}, toy_study.train)
    path = tmp_path / "train-0.json"
    write_record(job, tmp_path, {}, seconds=1)
    data = path.read_bytes().rstrip()
    assert record_of(job, tmp_path)
    for size in range(0, len(data), 100):
        path.write_bytes(data[:size])
        assert record_of(job, tmp_path) is None, size


# A disk that is full


@pytest.fixture
def disk(tmp_path):
    """A function that gives an empty file system of so many bytes, in memory."""
    made = []

    def make(size):
        folder = tmp_path / f"disk {len(made)}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small disk can be mounted here: {error}")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", folder], check=True)


def fill(folder, left=0):
    """Take all space but ``left`` bytes."""
    free = shutil.disk_usage(folder).free
    with pytest.raises(OSError, match="No space left"), (folder / "filler").open("wb") as file:
        for _ in range(free // 65536 + 1):
            file.write(b"\1" * 65536)
            file.flush()
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - left)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_when_there_is_room(
    tmp_path, disk, kind, share
):
    run, whole = RUNS[kind], tmp_path / "whole"
    run(whole)
    needed = sum(4096 * -(-len(data) // 4096) for data in contents(whole).values())
    folder = disk("16m")
    fill(folder, left=int(share * needed) // 4096 * 4096)
    with pytest.raises(OSError, match=r"cannot write .*: No space left on device") as caught:
        run(folder / "run")
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)
    for name in contents(folder / "run"):  # nothing half written is left behind
        assert not name.startswith(".")
        if name.endswith(".safetensors"):
            read_tensors(folder / "run" / name)
    (folder / "filler").unlink()
    run(folder / "run")
    assert differences(folder / "run", whole) == []


@pytest.mark.slow
def test_jobs_on_a_full_disk_fail_by_name_and_are_done_when_there_is_room(disk):
    folder = disk("64k")
    fill(folder)
    jobs = [Job("about", {}, toy_study.circumstances), Job("refused", {}, toy_study.refuse)]
    outcome = run_jobs(jobs, folder / "study")
    assert "cannot write" in outcome.failed["about"] and "No space" in outcome.failed["about"]
    assert outcome.failed["refused"] == "RuntimeError: this one cannot be done"
    (folder / "filler").unlink()
    assert run_jobs(jobs[:1], folder / "study").records.keys() == {"about"}


def command(capsys, line):
    code = cli.run(line.split(" "))
    return code, capsys.readouterr().err


def test_a_command_on_a_full_disk_is_answered_in_one_line(disk, capsys):
    folder = disk("64k")
    fill(folder)
    out = str(folder).replace(" ", "\0")
    given = f"train --out {out}/run --steps 1 --width 4 --ways 2 --queries 1 --no-validate".split()
    code = cli.run([word.replace("\0", " ") for word in given])
    said = capsys.readouterr().err.splitlines()
    assert code == 2 and len([line for line in said if line.startswith("metalearn-tut: ")]) == 1
    assert said[-1].startswith("metalearn-tut: cannot write ") and "No space left" in said[-1]
    assert contents(folder / "run") == {}


# A cache folder that cannot be written to


@pytest.fixture
def unwritable(tmp_path, monkeypatch, disk):
    """A cache folder on a disk that may only be read; ``change`` writes to it first."""

    def make(change=None):
        folder = disk("4m") / "cache"
        folder.mkdir()
        monkeypatch.setenv("METALEARN_TUT_CACHE", str(folder))
        if change:
            change()
        subprocess.run(["mount", "-o", "remount,ro", folder.parent], check=True)
        return folder

    return make


def arrays():
    return {"images": np.arange(5)}


@pytest.fixture
def undrawn(monkeypatch):
    """Glyphs that nobody has drawn in this process, and which must not be."""
    glyphs_module = sys.modules["metalearn_tut.tasks.glyphs.source"]
    monkeypatch.setattr(glyphs_module, "render_classes", lambda points: pytest.fail("drawn"))
    glyphs_module._all_images.cache_clear()
    yield
    glyphs_module._all_images.cache_clear()


def test_a_cache_that_cannot_be_written_is_told_before_the_work_is_done(unwritable, undrawn):
    folder = unwritable()
    with pytest.raises(OSError, match="cannot write to the cache folder") as caught:
        glyphs("test")
    assert str(folder) in str(caught.value) and "METALEARN_TUT_CACHE names" in str(caught.value)


def test_a_file_in_the_place_of_the_cache_is_told_before_the_work_is_done(
    tmp_path, monkeypatch, undrawn, capsys
):
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path / "cache"))
    code, said = command(capsys, "data glyphs")
    assert code == 2 and said.count("\n") == 1
    assert said.startswith(f"metalearn-tut: cannot write to the cache folder {tmp_path}/cache: ")
    assert "METALEARN_TUT_CACHE names another one" in said


def test_what_is_in_a_cache_that_cannot_be_written_is_used(unwritable):
    unwritable(lambda: files.cached_arrays("numbers", arrays))
    found = files.cached_arrays("numbers", lambda: pytest.fail("made again"))
    assert found["images"].tolist() == [0, 1, 2, 3, 4]


def test_a_cache_on_a_full_disk_is_told_and_left_as_it_was(disk, monkeypatch):
    folder = disk("64k")
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(folder))
    fill(folder)
    with pytest.raises(OSError, match=r"cannot write .*numbers\.npz: No space left on device"):
        files.cached_arrays("numbers", arrays)
    assert sorted(contents(folder)) == ["filler"]


def test_a_run_in_a_folder_that_cannot_be_written_is_refused_in_one_line(disk):
    folder = disk("64k")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    for run in RUNS.values():
        with pytest.raises(OSError, match="Read-only file system") as caught:
            run(folder / "run")
        assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
