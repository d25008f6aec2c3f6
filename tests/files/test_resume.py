"""The one resume file: what it takes, what it refuses, and what it says."""

import fault_runs
import pytest
import torch

from metalearn_tut.files.resume import Resume
from metalearn_tut.files.tensor_file import write_tensors

RUN = {"seed": 0, "training": {"steps": (5, 6)}}


def kept(folder, step=3):
    file = folder / "last.safetensors"
    Resume(file, RUN).keep(step, {"w": torch.arange(3.0)}, {"loss": [0.5]})
    return file


def test_what_was_kept_comes_back_whole(tmp_path):
    resumed = Resume(kept(tmp_path), RUN)
    tensors, state = resumed.begin(resume=True)
    assert torch.equal(tensors["w"], torch.arange(3.0)) and resumed.step == 3
    assert state == {"loss": [0.5], "step": 3, "run": {"seed": 0, "training": {"steps": [5, 6]}}}


def test_a_new_run_has_nothing_kept_and_a_folder_of_its_own(tmp_path):
    new = Resume(tmp_path / "a" / "b" / "last.safetensors", RUN)
    assert new.begin(resume=True) is None and new.step is None
    assert (tmp_path / "a" / "b").is_dir()


def test_without_a_path_nothing_is_kept():
    nowhere = Resume(None, RUN)
    assert nowhere.begin(resume=False) is None
    nowhere.keep(1, {"w": torch.zeros(1)}, {})
    assert nowhere.left() == "no checkpoint was saved"


def test_a_process_that_does_not_write_reads(tmp_path):
    file = tmp_path / "new" / "last.safetensors"
    reader = Resume(file, RUN, writes=False)
    assert reader.begin(resume=False) is None
    reader.keep(1, {"w": torch.zeros(1)}, {})
    assert not file.parent.exists()
    assert Resume(kept(tmp_path), RUN, writes=False).begin(resume=True).state["step"] == 3


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_folder_with_a_run_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    run = Resume(tmp_path / "last.safetensors", RUN, beside=["best.safetensors"])
    said = rf"{tmp_path} holds a run: go on with it \(resume=True, on the command line --resume\)"
    with pytest.raises(FileExistsError, match=said):
        run.begin(resume=False)


def test_another_run_is_refused_by_what_differs(tmp_path):
    file = kept(tmp_path)
    other = Resume(file, {**RUN, "training": {"steps": (5, 7)}})
    with pytest.raises(ValueError, match=r"last.*: training.steps was \[5, 6\], now \[5, 7\]"):
        other.begin(resume=True)
    assert other.step is None


def test_a_file_of_another_kind_is_refused(tmp_path):
    write_tensors(tmp_path / "last.safetensors", {"w": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ValueError, match="is damaged, or not a round of this package"):
        Resume(tmp_path / "last.safetensors", RUN, kind="round").begin(resume=True)


def test_half_written_files_of_the_run_are_removed_and_no_others(tmp_path):
    file = kept(tmp_path)
    names = (".last-0123abcd.safetensors", ".best-0123abcd.safetensors", ".more-0123abcd.json")
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    Resume(file, RUN, beside=["best.safetensors"]).begin(resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[2], "last.safetensors"]


def test_a_run_that_stops_says_what_it_can_be_gone_on_from(tmp_path):
    run = Resume(tmp_path / "last.safetensors", RUN, unit="round")
    with pytest.raises(KeyboardInterrupt) as caught, run.explained():
        raise KeyboardInterrupt
    assert str(caught.value) == "training was stopped; no checkpoint was saved"
    run.keep(7, {"w": torch.zeros(1)}, {})
    left = f"last good checkpoint: {tmp_path}/last.safetensors (round 7)"
    with pytest.raises(KeyboardInterrupt) as caught, run.explained():
        raise KeyboardInterrupt
    how = "resume=True (--resume) goes on from it"
    assert str(caught.value) == f"training was stopped; {left}; {how}"
    with pytest.raises(FloatingPointError) as caught, run.explained():
        raise FloatingPointError("the loss is NaN")
    assert str(caught.value) == f"the loss is NaN; {left}"


def test_rounds_whose_beginning_is_lost_are_not_taken_for_a_new_run(tmp_path):
    fault_runs.pruning(tmp_path)
    for number in (0, 1):
        (tmp_path / f"round_0{number}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no pruning round at .*round_00.safetensors"):
        fault_runs.pruning(tmp_path)
