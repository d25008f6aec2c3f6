"""Commands with what users give them: other runs, odd places, numbers that are none."""

import json
import shlex
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch

from metalearn_tut import evaluate, saliency, tasks
from metalearn_tut.cli import program as cli
from metalearn_tut.files.cache import cache_dir
from metalearn_tut.runs import building as runs
from metalearn_tut.training import checkpoint

TINY = "--width 4 --queries 2 --steps 1 --tasks-per-step 1 --no-validate"
FEW = "--width 4 --queries 2 --rounds 1 --nodes 2 --local-steps 1"
PRUNE = "--keep 0.5 --step 0.25 --tasks 1 --steps 1 --tasks-per-step 1"
RUNS = {
    "maml": f"train {TINY} --out {{new}}",
    "zero": f"train {TINY} --out {{new}} --zero-head --norm support",
    "metasgd": f"train {TINY} --out {{new}} --algorithm metasgd",
    "reptile": f"train {TINY} --out {{new}} --algorithm reptile",
    "protonet": f"train {TINY} --out {{new}} --algorithm protonet",
    "tsmd": f"train {TINY} --out {{new}} --algorithm tsmd --teacher {{maml}}",
    "fixed": f"train {TINY} --out {{new}} --algorithm tsmd --teacher {{maml}} --fixed-teacher",
    "metagater": f"federate {FEW} --out {{new}}",
    "fedavg": f"federate {FEW} --out {{new}} --algorithm fedavg",
    "pruned": f"prune {{maml}} {PRUNE} --out {{new}}",
    "pruned-zero": f"prune {{zero}} {PRUNE} --out {{new}}",
    "pruned-metasgd": f"prune {{metasgd}} {PRUNE} --out {{new}}",
    "pruned-reptile": f"prune {{reptile}} {PRUNE} --out {{new}}",
    "pruned-fedavg": f"prune {{fedavg}} {PRUNE} --out {{new}}",
    "pruned-again": f"prune {{pruned}} {PRUNE} --keep 0.3 --out {{new}}",
}
PRUNED = [name for name in RUNS if name.startswith("pruned")]
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)


class Made(dict):
    """The folder of each run, made when it is first asked for; spaces and umlauts in its path."""

    def __init__(self, folder):
        self.folder = folder

    def __missing__(self, name):
        new = self.folder / f"Läufe für {name}"
        words = RUNS[name].replace("{new}", shlex.quote(str(new)))
        assert cli.run([w.format_map(self) for w in shlex.split(words)]) == 0, name
        self[name] = new
        return new


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("über alles"))


@pytest.fixture
def command(capsys):
    """``command(*words)``: exit code, standard output, and the lines of standard error."""
    return partial(command_line.command, capsys)


def adapted(run, task):
    learner = runs.load_learner(run)
    part = getattr(learner, "student", learner)
    part.model.norm = "support"
    return learner.adapt(task.support_x, task.support_y)


# Export


@pytest.mark.slow(quick=6)
@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_exported_and_evaluated_to_the_same_number(made, command, tmp_path, name):
    file = tmp_path / "aus geführt.safetensors"
    code, out, said = command("export", made[name], file)
    assert code == 0, said
    assert out.splitlines()[-1] == f"{file}: {file.stat().st_size:,} bytes"
    sampler = tasks.glyphs("test").sampler(5, 1, 2, seed=3)
    before, after = (evaluate(runs.load_learner(run), sampler, 2) for run in (made[name], file))
    assert torch.equal(before.values, after.values)
    assert runs.load_config(file) == runs.load_config(made[name])


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("name", PRUNED)
def test_an_exported_pruned_run_is_its_file_to_the_byte(made, command, tmp_path, name):
    file = tmp_path / "x.safetensors"
    assert command("export", made[name], file)[0] == 0
    assert file.read_bytes() == (made[name] / checkpoint.PRUNED).read_bytes()
    masks = runs.load_learner(file).masks
    assert 0.2 < saliency.kept_fraction(masks) < 0.6


def test_what_was_trained_between_two_rounds_is_exported_with_its_masks(made, command, tmp_path):
    run, file = made["pruned"] / "trained_01", tmp_path / "x.safetensors"
    assert command("export", run, file)[0] == 0
    masks, expected = runs.load_learner(file).masks, runs.load_learner(run).masks
    assert masks.keys() == expected.keys() and 0.7 < saliency.kept_fraction(masks) < 0.8
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())


@pytest.mark.slow(quick=1)
@needs_onnx
@pytest.mark.parametrize("name", ["pruned", "tsmd"])
def test_the_network_of_a_task_runs_elsewhere(made, command, tmp_path, name):
    import onnxruntime

    file, task = tmp_path / "Aufgabe 2.onnx", tasks.glyphs("test").sampler(5, 1, 1, seed=3)[2]
    code, _, said = command("export", made[name], file, "--seed", 3, "--task", 2)
    assert code == 0, said
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": tasks.as_float(task.query_x).numpy()})
    expected = adapted(made[name], task)(task.query_x)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("run", "ways", "code"),
    [
        *(("pruned-zero", 4, 0), ("pruned-zero", 7, 0), ("zero", 7, 0), ("protonet", 3, 0)),
        *(("pruned", 4, 2), ("metagater", 4, 2), ("fedavg", 7, 2), ("tsmd", 4, 2)),
    ],
)
def test_other_ways_are_for_heads_that_have_none_of_their_own(made, command, run, ways, code):
    found, out, said = command("evaluate", made[run], "--tasks", 2, "--ways", ways)
    assert found == code, said
    assert f"{ways}-way 1-shot" in out if code == 0 else f"tasks have {ways} ways" in said[0]


# Places


def test_a_home_folder_is_found_where_the_shell_leaves_it(made, command, tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(cache_dir()))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, said = command("train", *TINY.split(), "--out=~/ein Lauf")
    assert code == 0 and (tmp_path / "ein Lauf" / "last.safetensors").exists(), said
    code, _, said = command("evaluate", "~/ein Lauf", "--tasks", 2, "--json=~/Zahl.json")
    assert code == 0 and json.loads((tmp_path / "Zahl.json").read_text())["values"], said
    code, _, said = command("export", "~/ein Lauf", "~/kurz.safetensors")
    assert code == 0 and (tmp_path / "kurz.safetensors").exists(), said
    code, _, said = command("data", "omniglot", "--root=~/nirgends")
    assert code == 2 and said == [
        f"metalearn-tut: --root {tmp_path}/nirgends: there is no such folder"
    ]
    assert not Path("~").exists()


def test_options_that_are_zero_were_given(made, command, tmp_path):
    """0 is equal to False, and a weight of 0 is not the default of 1."""
    words = ["train", *TINY.split(), "--algorithm", "tsmd", "--teacher", made["maml"]]
    code, _, said = command(*words, "--out", tmp_path / "a", "--kd-weight", 0)
    assert code == 0, said
    learner = runs.load_learner(tmp_path / "a")
    assert learner.guided_student.kd_weight == 0
    assert runs.load_learner(made["tsmd"]).guided_student.kd_weight
    code, _, said = command(*words, "--out", tmp_path / "b", "--temperature", 0)
    assert code == 2 and "temperature must be positive, got 0" in said[0]
    for name in ("kd-weight", "temperature", "teacher-outer-lr"):
        code, _, said = command("train", *TINY.split(), "--out", tmp_path / "c", f"--{name}", 0)
        assert code == 2 and said == [f"metalearn-tut: --{name}: maml has no use for it"]


# Teachers: a run is whole, whatever becomes of the run that it learned from


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("kind", ["maml", "metasgd", "pruned"])
@pytest.mark.parametrize("then", ["gone", "another"])
def test_a_student_of_a_fixed_teacher_needs_no_other_run(made, command, tmp_path, kind, then):
    teacher, student, file = tmp_path / "Lehrer", tmp_path / "Schüler", tmp_path / "x.safetensors"
    shutil.copytree(made[kind], teacher)
    words = [*TINY.split(), "--algorithm", "tsmd", "--teacher", teacher, "--fixed-teacher"]
    assert command("train", *words, "--out", student)[0] == 0
    known = runs.load_learner(teacher)
    sampler = tasks.glyphs("test").sampler(5, 1, 2, seed=3)
    before = evaluate(runs.load_learner(student), sampler, 3).values
    shutil.rmtree(teacher)
    if then == "another":
        assert command("train", *TINY.split(), "--seed", 9, "--out", teacher)[0] == 0
    assert command("export", student, file)[0] == 0
    for run in (student, file):
        learner = runs.load_learner(run)
        own = learner.teacher.meta_parameters().items()
        assert all(torch.equal(p, known.meta_parameters()[n]) for n, p in own)
        assert learner.teacher.masks.keys() == known.masks.keys()
        assert torch.equal(evaluate(learner, sampler, 3).values, before)


# A pruning run is gone on with as it was begun

OTHERWISE = {
    "--steps 2": "note.training.steps was 1, now 2",
    "--steps 0": "note.training.steps was 1, now 0",
    "--tasks-per-step 2": "note.training.tasks_per_step was 1, now 2",
    "--outer-lr 0.002": "note.training.outer_lr was 0.001, now 0.002",
    "--tasks 2": "n_tasks was 1, now 2",
    "--seed 2": "criterion.seed was 1, now 2",
    "--score lobs": "method was 'anp', now 'lobs'",
    "--allocation global": "allocation was 'uniform', now 'global'",
    "--spare head": "spare was [], now ['head']",
    "--step 0.1": "schedule was [0.25, 0.25], now [0.1, 0.1]",
}


@pytest.mark.parametrize("option", OTHERWISE)
def test_a_pruning_run_is_not_resumed_with_another_option(made, command, option):
    words = [*f"--out {{new}} --resume {PRUNE} {option}".split()]
    before = {path: path.stat().st_mtime_ns for path in _all(made["pruned"])}
    code, _, said = command("prune", made["maml"], *(w.format(new=made["pruned"]) for w in words))
    assert code == 2 and OTHERWISE[option] in said[0], said
    assert {path: path.stat().st_mtime_ns for path in _all(made["pruned"])} == before


def test_a_pruning_run_is_not_resumed_from_another_learner(made, command, tmp_path):
    """Of the same architecture and settings: only its weights are others."""
    assert command("train", *TINY.split(), "--seed", 9, "--out", tmp_path / "other")[0] == 0
    words = [*PRUNE.split(), "--out", made["pruned"], "--resume"]
    code, _, said = command("prune", tmp_path / "other", *words)
    assert code == 2 and "note.weights.meta.blocks.0.conv.weight was" in said[0], said
    before = (made["pruned"] / checkpoint.PRUNED).read_bytes()
    assert command("prune", made["maml"], *words)[0] == 0
    assert (made["pruned"] / checkpoint.PRUNED).read_bytes() == before


# Mistakes: one sentence, exit code 2, and nothing is made

WRONG = {
    # an empty word is the present folder to pathlib
    "train {tiny} --out ''": "an argument is empty, after --out",
    "train {tiny} --out=": "an argument is empty, after --out=",
    "train {tiny} --out {new} --algorithm tsmd --teacher ''": "an argument is empty, after --teac",
    "evaluate ''": "an argument is empty, after evaluate",
    "evaluate {maml} --json ''": "an argument is empty, after --json",
    "prune {maml} --out ''": "an argument is empty, after --out",
    "data omniglot --root ''": "an argument is empty, after --root",
    "reproduce ''": "an argument is empty, after reproduce",
    # places that cannot be written to
    "train {tiny} --out {file}": "cannot write to {file}: {file} is a file",
    "train {tiny} --out {file}/x": "cannot write to {file}/x: {file} is a file",
    "prune {maml} --out {file}/x": "cannot write to {file}/x: {file} is a file",
    "evaluate {maml} --json {folder}": "cannot write {folder}: it is a folder",
    "evaluate {maml} --json {file}/x.json": "cannot write to {file}: {file} is a file",
    "export {maml} {file}/x.onnx": "FILE: cannot write to {file}: {file} is a file",
    "export {maml} {folder}/y.onnx": "it is a folder, name a file in it",
    "reproduce anp --results {file}": "--results: cannot write to {file}: {file} is a file",
    "reproduce anp --out {file}/x": "--out: cannot write to {file}/x: {file} is a file",
    # runs that would be lost, or not found again
    "train {tiny} --out {pruned}": "holds another run (pruned.safetensors): name another folder",
    "prune {maml} --out {maml}": "holds another run (last.safetensors): name another folder",
    "prune {maml} --out {metagater}": "holds another run (last.safetensors)",
    "federate {few} --out {pruned}": "holds another run (pruned.safetensors): name another folder",
    "federate {few} --out {maml}": "{maml} holds a run: go on with it",
    "prune {zero} --out {pruned}": "{pruned} holds a run: go on with it",
    "export {maml} {maml}/last.safetensors": "belongs to a run, which would lose it",
    "export {protonet} {maml}/last.safetensors": "belongs to a run, which would lose it",
    "export {maml} {pruned}/pruned.safetensors": "belongs to a run, which would lose it",
    # files and folders that are not there, or that nobody would look at
    "evaluate {maml} --data omniglot --root {absent}": "--root {absent}: there is no such folder",
    "evaluate {maml} --data omniglot_runs --root {absent}": "--root {absent}: there is no such",
    "evaluate {maml} --root {folder}": "--root {folder}: glyphs are drawn and have no files",
    "train {tiny} --out {new} --root {folder}": "--root {folder}: glyphs are drawn",
    "prune {maml} --out {new} --root {folder}": "--root {folder}: glyphs are drawn",
    "federate {few} --out {new} --root {folder}": "--root {folder}: glyphs are drawn",
    "federate {few} --out {new} --data omniglot --root {absent}": "there is no such folder",
    "data glyphs --root {folder}": "--root {folder}: glyphs are drawn and have no files",
    "evaluate ~nobody-of-this-name/x": "~nobody-of-this-name/x: there is no such user",
    "evaluate {maml} --json ~nobody-of-this-name/x": "~nobody-of-this-name/x: there is no such us",
    # numbers
    "train {tiny} --out {new} --steps 1e3": "'--steps': '1e3' is not a valid integer",
    "train {tiny} --out {new} --steps -5": "'--steps': -5 is not in the range x>=1",
    "train {tiny} --out {new} --steps 2.5": "'--steps': '2.5' is not a valid integer",
    "train {tiny} --out {new} --inner-lr 0,4": "'--inner-lr': '0,4' is not a valid float",
    "train {tiny} --out {new} --inner-lr nan": "inner_lr must be finite and >= 0, got nan",
    "train {tiny} --out {new} --outer-lr inf": "outer_lr must be positive, got inf",
    "train {tiny} --out {new} --clip nan": "clip must be positive, got nan",
    "train {tiny} --out {new} --multi-step-loss nan": "multi_step_loss must be in 0..1, got nan",
    "train {tiny} --out {new} --seed -1": "'--seed': -1 is not in the range",
    "train {tiny} --out {new} --seed 9223372036854775808": "is not in the range 0<=x<=92233720",
    "train {tiny} --out {new} --threads 99999999999": "is not in the range 1<=x<=1024",
    "reproduce anp --threads 99999999999": "is not in the range 1<=x<=1024",
    "evaluate {maml} --seed 99999999999999999999999": "is not in the range 0<=x<=92233720",
    "evaluate {maml} --shots 20": "shots + queries = 35 images per class, but class",
    "evaluate {maml} --queries -3": "'--queries': -3 is not in the range x>=1",
    "federate {few} --out {new} --seed 9223372036854775808": "is not in the range 0<=x<=92233",
    "federate {few} --out {new} --fraction nan": "fraction must be in (0, 1], got nan",
    "prune {maml} --out {new} --keep nan": "keep must be between 0 and 1",
    "prune {maml} --out {new} --step inf": "--step must be positive, got inf",
    "prune {maml} --out {new} --step -0.1": "--step must be positive, got -0.1",
    "prune {maml} --out {new} --outer-lr nan": "--outer-lr must be positive, got nan",
    "prune {maml} --out {new} --tasks 1e3": "'--tasks': '1e3' is not a valid integer",
    "export {maml} {folder}/x.onnx --task -1": "'--task': -1 is not in the range x>=0",
    # devices
    "train {tiny} --out {new} --device meta": "--device meta: this PyTorch cannot compute there",
    "evaluate {maml} --device meta": "--device meta: this PyTorch cannot compute there",
    "prune {maml} --out {new} --device xla": "--device xla: ",
    # what has no use
    "export {maml} {folder}/x.safetensors --task 3": "--task: only an .onnx file is of one task",
    "export {maml} {folder}/x.safetensors --ways 4": "--ways: only an .onnx file is of one task",
    "export {maml} {folder}/x.txt": "FILE must end in .safetensors or .onnx, got {folder}/x.txt",
    "export {maml} {folder}/X.ONNX": "FILE must end in .safetensors or .onnx, got {folder}/X.ONNX",
    "export --learner {maml} {folder}/x.safetensors": "--learner: FILE must end in .onnx, got",
    "export --learner {maml} {folder}/x.onnx --task 2": "--task: --learner writes a file of no",
    "export {maml} {folder}/x.onnx --half": "--half: only with --learner",
    "export {maml} {folder}/x.onnx --max-shots 2": "--max-shots: only with --learner",
    "export --learner {maml} {folder}/x.onnx --classify {file}/y.onnx": "--classify: cannot write",
    "export --learner {maml} {folder}/x.onnx --classify {folder}/y.bin": "classify must end in .o",
    "export --learner {maml} {folder}/x.onnx --ways 4": "ways must be 5, for which the learner's",
    "prune {protonet} --out {new}": "is a ProtoNet, which is not pruned by masks",
    "prune {tsmd} --out {new}": "is a MetaDistiller, which is not pruned by masks",
    # files of another kind
    "evaluate {file}": "is damaged, or not a checkpoint of this package",
    "evaluate {pruned}/rounds": "no run at {pruned}/rounds",
    "evaluate {pruned}/rounds/round_01.safetensors": "is damaged, or not a checkpoint",
    "evaluate {metagater}/server.safetensors": "is damaged, or not a checkpoint",
    "export {file} {folder}/x.onnx": "is damaged, or not a checkpoint of this package",
    "evaluate pretrained:": "no pretrained learner is called ''; available: ",
    "evaluate pretrained:../x": "no pretrained learner is called '../x'; available: ",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_one_sentence_and_nothing_is_made(made, capsys, tmp_path, monkeypatch, wrong):
    places = {name: tmp_path / f"ein {name}" for name in ("new", "file", "folder", "absent")}
    places["file"].write_text("nothing")
    (places["folder"] / "y.onnx").mkdir(parents=True)
    monkeypatch.chdir(places["folder"])
    for name in RUNS:
        if f"{{{name}}}" in wrong:
            places[name] = made[name]
    before = {path: path.stat().st_mtime_ns for path in _all(tmp_path, made.folder)}
    words = [
        w.format(**places) for w in shlex.split(wrong.replace("{tiny}", TINY).replace("{few}", FEW))
    ]
    capsys.readouterr()
    code = cli.run(words)
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("metalearn-tut: ") and err.count("\n") == 1 and "Errno" not in err
    assert WRONG[wrong].format(**places) in err
    assert {path: path.stat().st_mtime_ns for path in _all(tmp_path, made.folder)} == before


def _all(*folders):
    return [path for folder in folders for path in folder.rglob("*")]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
    ],
)
def test_too_little_memory_is_said_as_such(command, monkeypatch, error):
    def ask(options, arguments):
        raise error

    monkeypatch.setattr("metalearn_tut.cli.commands.train.train", ask)
    code, _, said = command("train", "--out", "x")
    assert code == 1 and said == [
        f"metalearn-tut: not enough memory: smaller or fewer would need less ({error})"
    ]
