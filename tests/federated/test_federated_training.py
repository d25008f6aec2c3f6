"""Federated runs in a folder: the learner kept there, and kills that leave no trace."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import background
import pytest
import torch
import training_runs
from federated_cases import gater_federation, maml_federation

from metalearn_tut.federated import in_process, run_rounds, state_of
from metalearn_tut.federated.training import federated_train
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.runs import building as runs
from metalearn_tut.training import checkpoint

CONFIG = {"of": "a test", "rounds": 4}
ROUNDS = {"rounds": 4, "fraction": 0.7}


class Bare:
    """A learner of one tensor."""

    def meta_parameters(self):
        return {"w": torch.zeros(1)}


def train(out, dies_at=None, **options):
    """The run that is killed and resumed; it may die between two clients of a round."""
    federation = gater_federation(**ROUNDS)
    honest = in_process(federation)

    def ask(chosen, state, number):
        first = honest(chosen[:1], state, number)
        if number == dies_at:
            training_runs.die()
        return first | honest(chosen[1:], state, number)

    options = {"config": CONFIG, "resume": True, "progress": False, **options}
    return federation, federated_train(federation, out, ask=ask, **options)


def contents(folder):
    """Every file but for the order of a header: tensors and JSON."""
    files = {path.name: path for path in folder.iterdir()}
    read = {name: read_tensors(p) for name, p in files.items() if p.suffix == ".safetensors"}
    assert files.keys() == {"last.safetensors", "server.safetensors", "history.json"}
    return read, files["history.json"].read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder, resume=False)


def test_the_folder_holds_the_learner_and_what_the_server_needs(whole):
    folder, federation, records = whole
    plain = gater_federation(**ROUNDS)
    assert records == run_rounds(plain) == json.loads((folder / "history.json").read_text())
    expected = state_of(plain.learner)
    tensors, state = checkpoint.read(folder / "last.safetensors")
    assert state["step"] == 4 and state["run"] == {"config": CONFIG}
    assert {f"meta.{n}" for n in expected} == {n for n in tensors if n.startswith("meta.")}
    for name, p in expected.items():
        assert torch.equal(tensors[f"meta.{name}"], p), name
        assert torch.equal(state_of(federation.learner)[name], p), name
    assert runs.load_config(folder) == CONFIG


def test_checkpoints_are_as_many_as_asked_for(tmp_path):
    seen = []

    def ask(chosen, state, number):
        last = tmp_path / "last.safetensors"
        seen.append(checkpoint.read(last)[1]["step"] if last.exists() else 0)
        return in_process(federation)(chosen, state, number)

    federation = maml_federation(rounds=5)
    options = {"ask": ask, "save_every": 3, "progress": False}
    federated_train(federation, tmp_path, config={"n": 4}, **options)
    assert seen == [0, 0, 0, 3, 3]
    assert checkpoint.read(tmp_path / "last.safetensors")[1]["step"] == 5


def until(count, before=None, after=False):
    """Die in the count-th write or renaming of a file, each round's learner and server in turn."""
    name = "write_bytes" if before else "replace"
    return lambda: training_runs.die_in_call(Path, name, count, before=before, after=after)


half = training_runs.write_half
DEATHS = {
    "between two clients": lambda: 0,
    "half way through the first learner": until(1, half),
    "the first learner in place": until(1, after=True),
    "the learner in place, the server's file not": until(2),
    "half way through the server's file": until(2, half),
    "both in place": until(2, after=True),
    "between two clients of a later round": lambda: 2,
    "before the history": lambda: training_runs.die_in_call(Path, "write_text", 1),
}


def kill(folder):
    training_runs.ready_to_fork(folder)
    for prepare in DEATHS.values():
        print(training_runs.in_child(lambda p=prepare: train(folder / "run", p())))
    print(training_runs.in_child(lambda: train(folder / "run")))


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_bitwise_as_if_it_had_not_been(tmp_path, whole):
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        capture_output=True,
        text=True,
        timeout=background.HANG,
    )
    assert done.stdout.split() == [str(signal.SIGKILL.value)] * len(DEATHS) + ["0"], done.stderr
    (found, history), (expected, whole_history) = contents(tmp_path / "run"), contents(whole[0])
    assert history == whole_history
    for name, (tensors, state) in expected.items():
        assert found[name][1] == state, name
        assert all(torch.equal(found[name][0][n], t) for n, t in tensors.items()), name


def test_a_stopped_run_says_what_it_goes_on_from(tmp_path):
    federation = maml_federation(rounds=3)

    def stop(chosen, state, number):
        if number == 1:
            raise KeyboardInterrupt
        return in_process(federation)(chosen, state, number)

    options = {"config": {}, "ask": stop, "progress": False}
    said = r"training was stopped; last good checkpoint: .*server.* \(round 1\); resume=True \("
    with pytest.raises(KeyboardInterrupt, match=said):
        federated_train(federation, tmp_path / "run", **options)

    def at_once(*_):
        raise KeyboardInterrupt

    options["ask"] = at_once
    with pytest.raises(KeyboardInterrupt, match="training was stopped; no checkpoint was saved"):
        federated_train(federation, tmp_path / "new", **options)


def test_a_folder_with_a_run_is_not_written_over(whole, tmp_path):
    folder = whole[0]
    before = contents(folder)
    with pytest.raises(FileExistsError, match=r"holds a run: go on with it \(resume=True, on the"):
        train(folder, resume=False)
    with pytest.raises(ValueError, match=r"config.of was 'a test', now 'another'"):
        train(folder, config={**CONFIG, "of": "another"})
    for names in ((), ("last.safetensors",)):  # of a run that was meta_train's
        other = tmp_path / f"other{len(names)}"
        for name in (*names, "best.safetensors"):
            checkpoint.save(other / name, Bare(), run={"training": {"steps": 5}})
        with pytest.raises(
            ValueError, match=r"best.safetensors: config was None, now .*'of': 'a test'"
        ):
            train(other)
        with pytest.raises(FileExistsError, match="holds a run"):
            train(other, resume=False)
    again, then = contents(folder), json.loads(before[1])
    assert again[1] == before[1]
    assert train(folder)[1] == then  # a finished run goes on to itself


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_computed(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write to"):
        train(tmp_path, dies_at=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill(Path(sys.argv[1]))
