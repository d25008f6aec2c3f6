"""The command line: it trains, resumes, evaluates; a mistake is one line."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import background
import numpy as np
import pytest
import torch
from command_line import command
from PIL import Image

from metalearn_tut import pretrained, saliency, tasks
from metalearn_tut.bilevel import ENGINES
from metalearn_tut.bilevel.rates import RATE_MODES
from metalearn_tut.cli import launch as cli_launch
from metalearn_tut.cli import options
from metalearn_tut.cli import program as cli
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.machine import threads
from metalearn_tut.models import NORMS
from metalearn_tut.runs import building as runs
from metalearn_tut.runs.algorithms import ALGORITHMS
from metalearn_tut.runs.options import options_of
from metalearn_tut.saliency.masks import ALLOCATIONS
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import meta_train
from metalearn_tut.training.outer_rates import SCHEDULES

TINY = [
    *("train", "--width", "4", "--queries", "2", "--steps", "6", "--tasks-per-step", "2"),
    *("--validate-every", "3", "--validation-tasks", "4", "--save-every", "2"),
]


def parameters(run):
    return runs.load_learner(run).meta_parameters()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "maml"
    assert cli.run([*TINY, "--out", str(folder), "--rotations"]) == 0
    return folder


# Without PyTorch


def test_help_teaches_and_does_not_wait_for_pytorch():
    code = (
        "import sys; from metalearn_tut.cli import program as cli\n"
        "for name in ' demo learn data train federate evaluate prune export reproduce'.split(\n"
        "    ' '):\n"
        "    assert cli.run([*name.split(), '--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Examples:") == 9 and "metalearn-tut train --data glyphs" in run.stdout
    assert "\\[" not in run.stdout


def test_the_choices_are_those_of_the_package():
    train, prune, evaluation = map(options_of, (options.Train, options.Prune, options.Evaluate))
    maml = options_of(ALGORITHMS["maml"])
    assert train["data"].choices == tuple(runs.SOURCES)
    assert maml["rate_mode"].choices == RATE_MODES
    assert train["norm"].choices == NORMS
    assert train["schedule"].choices == tuple(SCHEDULES)
    assert prune["score"].choices == saliency.SCORES
    assert prune["allocation"].choices == ALLOCATIONS
    assert set(maml["engine"].choices) <= set(ENGINES)
    named = (*options_of(options.Data)["name"].choices, *evaluation["data"].choices)
    assert all(hasattr(tasks, name) for name in named)


# Data


def test_data_says_what_is_there(capsys):
    code, out, _ = command(capsys, "data", "glyphs")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 3
    assert (
        lines[2]
        == f"test: {tasks.glyphs('test')!r}, {len(set(tasks.glyphs('test').groups))} groups"
    )


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_data_says_what_is_absent(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path / "cache"))
    for ink, character in enumerate(("character01", "character02")):
        folder = tmp_path / "images_evaluation" / "Alphabet" / character
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(png(np.full((28, 28), 255 - ink, np.uint8)))
    code, out, _ = command(capsys, "data", "omniglot", "--root", tmp_path)
    assert code == 0
    assert out.splitlines() == [
        "train: absent",
        "validation: absent",
        "test: ClassSource(omniglot test: 2 classes, 1x28x28 uint8), 1 groups",
        "train small1: absent",
        "train small2: absent",
    ]
    code, _, said = command(capsys, "data", "mini_imagenet", "--root", tmp_path)
    assert code == 2 and len(said) == 1 and "mini_imagenet needs the class" in said[0]


# Train, resume, evaluate


def test_a_run_keeps_what_its_learner_is_rebuilt_from(trained):
    config = runs.load_config(trained)
    assert config == {
        "data": {"name": "glyphs", "rotations": True},
        "tasks": {"ways": 5, "shots": 1, "queries": 2, "seed": 0},
        "model": {
            "name": "Conv4",
            "in_channels": 1,
            "ways": 5,
            "width": 4,
            "norm": "batch",
            "image_size": 28,
        },
        "algorithm": {
            "name": "maml",
            "inner_lr": 0.4,
            "inner_steps": 1,
            "rate_mode": "fixed",
            "zero_head": False,
            "multi_step_loss": 0.0,
            "engine": "functional",
        },
    }
    settings = checkpoint.read(trained / "last.safetensors")[1]["run"]["training"]
    rotated = runs.build_source(config["data"], "train")
    assert rotated.n_classes == 4 * tasks.glyphs("train").n_classes
    assert settings["sampler"] == rotated.sampler(5, 1, 2).settings()
    # validation classes are as they are
    assert settings["validation"] == tasks.glyphs("validation").sampler(5, 1, 2).settings()
    best, _ = checkpoint.read(trained / "best.safetensors")
    before = torch.get_rng_state()
    for name, p in parameters(trained).items():
        assert torch.equal(p, best[f"meta.{name}"]), name
    assert torch.equal(torch.get_rng_state(), before)
    last, _ = checkpoint.read(trained / "last.safetensors")
    for name, p in parameters(trained / "last.safetensors").items():
        assert torch.equal(p, last[f"meta.{name}"]), name


def test_evaluate_measures_the_best_state_on_new_classes(capsys, trained, tmp_path):
    written = tmp_path / "results" / "maml.json"
    arguments = ["evaluate", trained, "--tasks", 8, "--seed", 3, "--queries", 4, "--json", written]
    code, out, _ = command(capsys, *arguments, "--norm", "support", "--steps", 2)
    learner = runs.load_learner(trained)
    learner.model.norm = "support"
    expected = evaluate(learner, tasks.glyphs("test").sampler(5, 1, 4, seed=3), 8, steps=2)
    assert code == 0 and out.splitlines() == [str(expected), expected.sampler]
    assert "deployable" in out and "2 inner steps" in out
    result = json.loads(written.read_text())
    assert result["values"] == expected.to_dict()
    assert result["config"]["trained"] == runs.load_config(trained)
    assert result["config"]["command"].startswith(f"metalearn-tut evaluate {trained} --tasks 8")
    assert {"date", "commit", "device", "versions"} < set(result)


@pytest.mark.parametrize("algorithm", list(runs.ALGORITHMS))
def test_every_algorithm_is_trained_and_rebuilt(capsys, tmp_path, trained, algorithm):
    fast = ["--steps", 2, "--no-validate", "--seed", 4, "--algorithm", algorithm]
    fast += ["--teacher", trained] if algorithm == "tsmd" else []
    code, out, _ = command(capsys, *TINY, *fast, "--out", tmp_path)
    assert code == 0 and out.splitlines()[-1] == f"{tmp_path}/last.safetensors: 2 steps"
    torch.manual_seed(4)
    config = runs.load_config(tmp_path)
    start = runs.build_learner(config)
    end = parameters(tmp_path)
    assert end.keys() == start.meta_parameters().keys()
    moved = {n for n, p in start.meta_parameters().items() if not torch.equal(p, end[n])}
    assert moved, algorithm
    assert type(start) is type(runs.load_learner(tmp_path))


def test_options_reach_the_learner(capsys, tmp_path):
    options = (
        "--inner-lr 0.2 --inner-steps 3 --rate-mode per_layer --zero-head --multi-step-loss 0.5"
    )
    more = "--engine vectorised --norm support --ways 3 --shots 2 --within-group --steps 2"
    code, _, said = command(
        capsys, *TINY, *options.split(), *more.split(), "--no-validate", "--out", tmp_path
    )
    assert code == 0, said
    learner = runs.load_learner(tmp_path)
    assert (learner.inner_lr, learner.inner_steps, learner.rate_mode) == (0.2, 3, "per_layer")
    assert (learner.zero_head, learner.multi_step_loss, learner.engine) == (True, 0.5, "vectorised")
    assert (learner.model.norm, learner.model.ways, learner.model.width) == ("support", 3, 4)
    config = runs.load_config(tmp_path)
    assert config["tasks"]["shots"] == 2 and config["data"]["within_group"] is True
    code, out, _ = command(capsys, "evaluate", tmp_path, "--tasks", 3, "--ways", 8)
    assert code == 0 and "8-way 2-shot" in out  # a zero head has any number of ways


def test_other_ways_need_a_zero_head_and_the_error_says_so(capsys, trained):
    code, _, said = command(capsys, "evaluate", trained, "--ways", 6)
    assert code == 2 and len(said) == 1
    assert "tasks have 6 ways, and the learner a head trained for 5" in said[0]
    assert "--zero-head" in said[0] and "protonet" in said[0]


def test_the_official_runs_are_tasks_of_twenty_ways(capsys, tmp_path):
    rng = np.random.default_rng(0)
    for r in range(1, 21):
        lines = []
        for part, name in (("training", "class"), ("test", "item")):
            (tmp_path / f"runs/run{r:02}/{part}").mkdir(parents=True)
            for i in range(1, 21):
                pixels = rng.integers(0, 2, (28, 28), dtype=np.uint8) * 255
                (tmp_path / f"runs/run{r:02}/{part}/{name}{i:02}.png").write_bytes(png(pixels))
        lines = [
            f"run{r:02}/test/item{i:02}.png run{r:02}/training/class{i:02}.png"
            for i in range(1, 21)
        ]
        (tmp_path / f"runs/run{r:02}/class_labels.txt").write_text("\n".join(lines))
    options = ["--algorithm", "protonet", "--steps", 1, "--no-validate", "--norm", "support"]
    assert command(capsys, *TINY, *options, "--out", tmp_path / "proto")[0] == 0
    arguments = ["evaluate", tmp_path / "proto", "--data", "omniglot_runs"]
    code, out, said = command(capsys, *arguments, "--root", tmp_path / "runs")
    assert code == 0, said
    assert "(20 tasks; deployable" in out and "OmniglotRuns(20 runs, 20-way 1-shot)" in out
    code, _, said = command(capsys, *arguments)
    assert code == 2 and said == [
        "metalearn-tut: --data omniglot_runs needs --root: the folder or zip of the runs"
    ]


def test_an_exported_run_is_the_same_learner_without_the_optimizer(capsys, trained, tmp_path):
    file = tmp_path / "small.safetensors"
    code, out, _ = command(capsys, "export", trained, file)
    assert code == 0 and out == f"{file}: {file.stat().st_size:,} bytes\n"
    tensors, state = checkpoint.read(file)
    assert all(name.startswith("meta.") for name in tensors)
    original = checkpoint.read(trained / "best.safetensors")[1]
    assert state["run"] == original["run"] and state["step"] == original["step"]
    assert [entry["step"] for entry in state["validation"]] == [state["step"]]
    for name, p in parameters(file).items():
        assert torch.equal(p, parameters(trained)[name])
    assert command(capsys, "evaluate", file, "--tasks", 2)[0] == 0
    assert command(capsys, "export", trained, tmp_path / "again.safetensors")[0] == 0
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_teacher_is_trained_further_with_its_student(capsys, tmp_path, trained):
    teacher = shutil.copytree(trained, tmp_path / "teacher")
    options = "--algorithm tsmd --width 3 --inner-steps 2 --kd-weight 0.5 --teacher-outer-lr 0.002"
    options = [*options.split(), "--teacher", teacher, "--out", tmp_path / "student"]
    code, out, said = command(capsys, *TINY, *options)
    assert code == 0 and out.startswith("tsmd with "), said
    config = runs.load_config(tmp_path / "student")
    known = runs.load_config(trained)
    assert config["model"]["width"] == 3 and config["algorithm"] == {
        "name": "tsmd",
        "student": {"inner_lr": 0.4, "inner_steps": 2, "rate_mode": "fixed", "zero_head": False},
        "teacher": {n: known[n] for n in ("model", "algorithm")}
        | {"run": str((teacher / "best.safetensors").resolve())},
        "fixed_teacher": False,
        "kd_weight": 0.5,
        "temperature": 4.0,
    }
    state = checkpoint.read(tmp_path / "student" / "last.safetensors")[1]
    assert state["run"]["training"]["outer_lr"] == {"teacher": 0.002, "student": 0.001}
    begin, before = runs.build_learner(config), parameters(trained)
    assert begin.guided_student.kd_weight == 0.5 and begin.student.inner_steps == 2
    for name, p in begin.teacher.meta_parameters().items():
        assert torch.equal(p, before[name])
    shutil.rmtree(teacher)  # all of it is in the student's checkpoint now
    code, out, said = command(capsys, "evaluate", tmp_path / "student", "--tasks", 3)
    assert code == 0 and "2 inner steps" in out, said
    for name, p in runs.load_learner(tmp_path / "student").teacher.meta_parameters().items():
        assert not torch.equal(p, before[name])
    code, _, said = command(capsys, "evaluate", tmp_path / "student", "--ways", 6)
    assert code == 2 and "the learner a head trained for 5" in said[0]


def test_a_fixed_teacher_stays_in_its_own_run(capsys, tmp_path, trained):
    options = ["--algorithm", "tsmd", "--width", 3, "--teacher", trained, "--fixed-teacher"]
    assert command(capsys, *TINY, *options, "--out", tmp_path, "--temperature", 2)[0] == 0
    learner = runs.load_learner(tmp_path)
    assert learner.fixed_teacher and learner.guided_student.kd.keywords == {"temperature": 2.0}
    for name, p in learner.teacher.meta_parameters().items():
        assert torch.equal(p, parameters(trained)[name])
    config = runs.load_config(tmp_path)
    config["algorithm"]["teacher"]["run"] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"no run at .*gone"):
        runs.build_learner(config)
    del config["algorithm"]["teacher"]["run"]
    with pytest.raises(ValueError, match="a fixed teacher must be a trained one"):
        runs.build_learner(config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--algorithm tsmd", "--algorithm tsmd needs --teacher"),
        ("--teacher x", "--teacher: maml has no use for it"),
        ("--fixed-teacher", "--fixed-teacher: maml has no use for it"),
        ("--algorithm tsmd --engine higher", "--engine: tsmd has no use for it"),
        ("--algorithm tsmd --teacher absent", "no run at absent"),
        (
            "--algorithm tsmd --teacher x --fixed-teacher --teacher-outer-lr 1",
            "--teacher-outer-lr: a fixed teacher has no use for it",
        ),
        (
            "--algorithm tsmd --teacher pretrained:glyphs_5way_1shot",
            "teacher and student must have the same norm, got 'support' (teacher) and 'batch'",
        ),
    ],
)
def test_teachers_that_cannot_be_are_refused(capsys, tmp_path, options, said):
    code, _, found = command(capsys, *TINY, "--out", tmp_path / "run", *options.split())
    assert code == 2 and len(found) == 1 and said in found[0]
    assert not (tmp_path / "run").exists()


needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)


@needs_onnx
def test_an_onnx_file_is_the_network_of_one_task(capsys, trained, tmp_path):
    import onnxruntime

    file = tmp_path / "task.onnx"
    task = tasks.glyphs("validation").sampler(5, 2, 1, seed=3)[4]
    options = ["--split", "validation", "--shots", 2, "--seed", 3, "--task", 4]
    code, out, said = command(capsys, "export", trained, file, *options)
    assert code == 0, said
    assert f"{file.stat().st_size:,} bytes" in out and "task 4 of EpisodeSampler" in out
    learner = runs.load_learner(trained)
    learner.model.norm = "support"
    expected = learner.adapt(task.support_x, task.support_y)(task.query_x)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": tasks.as_float(task.query_x).numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@needs_onnx
def test_an_onnx_file_that_learns_is_written_of_a_run_and_of_a_name(capsys, trained, tmp_path):
    import onnxruntime

    task = tasks.glyphs("validation").sampler(5, 2, 1, seed=3)[4]
    x, query = (tasks.as_float(part) for part in (task.support_x, task.query_x))
    given = {"support_x": x.numpy(), "support_y": task.support_y.numpy(), "query_x": query.numpy()}
    small = "glyphs_5way_1shot_small"
    for run, learner in ((trained, runs.load_learner(trained)), (small, pretrained.load(small))):
        file = tmp_path / "learns.onnx"
        code, out, said = command(capsys, "export", "--learner", run, file)
        assert code == 0, said
        assert f"learns.onnx: {file.stat().st_size:,} bytes; logits equal to" in out
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        expected = learner.adapt(x, task.support_y)(query)
        np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@needs_onnx
def test_the_onnx_file_of_prototypes_names_the_nearest(capsys, tmp_path):
    import onnxruntime

    options = ["--algorithm", "protonet", "--steps", 1, "--no-validate", "--out", tmp_path]
    assert command(capsys, *TINY, *options)[0] == 0
    file, task = tmp_path / "a.onnx", tasks.glyphs("test").sampler(5, 1, 1, seed=3)[2]
    code, _, said = command(capsys, "export", tmp_path, file, "--seed", 3, "--task", 2)
    assert code == 0, said
    learner = runs.load_learner(tmp_path)
    learner.model.norm = "support"
    expected = learner.adapt(task.support_x, task.support_y)(task.query_x).softmax(1)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": tasks.as_float(task.query_x).numpy()})
    found = torch.from_numpy(found).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_an_export_cannot_be_resumed_from(capsys, trained, tmp_path):
    assert command(capsys, "export", trained, tmp_path / "last.safetensors")[0] == 0
    code, _, said = command(capsys, *TINY, "--rotations", "--out", tmp_path, "--resume")
    assert code == 2 and "holds no optimizer state" in said[0]


def test_omniglot_is_trained_on_and_validated(capsys, data_root, tmp_path):
    options = ["--data", "omniglot", "--root", data_root, "--background", "small1"]
    code, _, said = command(capsys, *TINY, *options, "--out", tmp_path)
    assert code == 0, said
    settings = checkpoint.read(tmp_path / "last.safetensors")[1]["run"]["training"]
    parts = {"sampler": ("train", "small1"), "validation": ("validation", "full")}
    for name, (split, small) in parts.items():
        source = tasks.omniglot(split, data_root, background=small)
        assert settings[name] == source.sampler(5, 1, 2).settings()
    arguments = ["--data", "omniglot", "--split", "validation", "--root", data_root]
    assert command(capsys, "evaluate", tmp_path, "--tasks", 2, *arguments)[0] == 0


# Prune

PRUNE = [
    *("--keep", "0.4", "--step", "0.25", "--tasks", "2", "--seed", "5"),
    *("--steps", "3", "--tasks-per-step", "2", "--spare", "head"),
]


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pruned"
    assert cli.run(["prune", str(trained), "--out", str(folder), *PRUNE]) == 0
    return folder


def test_prune_does_what_the_package_does(trained, pruned):
    """The rounds written out, with the package's own functions."""
    learner = runs.load_learner(trained)
    source = runs.build_source(runs.load_config(trained)["data"], "train")

    def retrain(learner, number):
        settings = {"steps": 3, "tasks_per_step": 2, "progress": False}
        meta_train(learner, source.sampler(5, 1, 2, seed=5 + number), **settings)

    masks, _ = saliency.anp_prune(
        learner,
        source.sampler(5, 1, 2, seed=5),
        saliency.Rounds((0.25, 0.25, 0.1), retrain),
        saliency.Criterion(n_tasks=2, spare=["head"], seed=5),
        progress=False,
    )
    file = saliency.read_sparse(pruned / "pruned.safetensors")
    assert (
        all(torch.equal(file.masks[n], m) for n, m in masks.items())
        and file.masks["head.bias"].all()
    )
    assert 0.4 <= saliency.kept_fraction(masks) < 0.42  # each layer gives whole weights
    for name, p in learner.meta_parameters().items():
        assert torch.equal(file.params[name], p), name


def test_a_pruned_learner_is_evaluated_with_its_masks(capsys, pruned, tmp_path):
    file, written = pruned / "pruned.safetensors", tmp_path / "result.json"
    code, out, _ = command(capsys, "evaluate", file, "--tasks", 4, "--json", written)
    learner = runs.load_learner(file)
    expected = evaluate(learner, tasks.glyphs("test").sampler(5, 1, 15, seed=1), 4)
    assert code == 0 and out.splitlines()[0] == str(expected)
    task = tasks.glyphs("test").sampler(5, 1, 1)[0]
    for name, p in learner.adapt(task.support_x, task.support_y).params.items():
        mask = saliency.read_sparse(file).masks.get(name)
        assert mask is None or not p[~mask].any(), name
    trained_with = json.loads(written.read_text())["config"]["trained"]
    assert trained_with["pruning"]["schedule"] == [0.25, 0.25, 0.1]
    assert trained_with["pruning"]["training"]["steps"] == 3
    assert trained_with["data"] == {"name": "glyphs", "rotations": True}


def test_the_folder_of_a_pruned_learner_is_evaluated_like_any_run(capsys, pruned):
    ways = (pruned, pruned / "pruned.safetensors")
    said = [command(capsys, "evaluate", way, "--tasks", 2) for way in ways]
    assert said[0][0] == 0 and said[0][:2] == said[1][:2]


def test_prune_says_what_is_left_and_can_go_on_from_there(capsys, pruned, tmp_path):
    first = pruned / "pruned.safetensors"
    arguments = ["prune", first, "--out", tmp_path / "more", "--keep", 0.2, "--steps", 0]
    code, out, _ = command(capsys, *arguments, "--score", "magnitude", "--allocation", "lamp")
    assert code == 0
    file = tmp_path / "more" / "pruned.safetensors"
    learner = runs.load_learner(file)
    before, masks = (saliency.read_sparse(f).masks for f in (first, file))
    model, shape = learner.model, (1, 28, 28)
    counts = (
        *(cost.parameters(model, masks), cost.parameters(model)),
        *(cost.macs(model, shape, masks), cost.macs(model, shape)),
    )
    said = "{:,} of {:,} parameters, {:,} of {:,} multiply-adds".format(*counts)
    assert out == f"{file}: {said}, {file.stat().st_size:,} bytes\n"
    assert 0.2 <= saliency.kept_fraction(masks) < 0.21
    assert not any((m & ~before[n]).any() for n, m in masks.items())


def test_an_interrupted_pruning_goes_on_and_ends_as_if_it_had_not_been(
    capsys, trained, pruned, tmp_path, monkeypatch
):
    def interrupt(self, step, history, improved, original=checkpoint.RunFolder.keep):
        original(self, step, history, improved)
        if self.path.name == "trained_02":
            raise KeyboardInterrupt

    arguments = ["prune", trained, "--out", tmp_path, *PRUNE]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.RunFolder, "keep", interrupt)
        assert command(capsys, *arguments)[0] == 130
    assert not (tmp_path / "pruned.safetensors").exists()
    code, _, said = command(capsys, *arguments)
    assert code == 2 and "holds a run" in said[0]
    assert command(capsys, *arguments, "--resume")[0] == 0
    a, b = ((folder / "pruned.safetensors").read_bytes() for folder in (pruned, tmp_path))
    assert a == b


def test_what_is_pruned_needs_a_run_that_can_be_trained_further(capsys, trained, tmp_path):
    learner, config = runs.load_learner(trained), runs.load_config(trained)
    del config["data"]
    checkpoint.save(tmp_path / "x.safetensors", learner, run={"config": config})
    code, _, said = command(capsys, "prune", tmp_path / "x.safetensors", "--out", tmp_path / "new")
    assert code == 2 and said[0].endswith(
        "x.safetensors does not say what data it was trained with"
    )


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fly", "No such command 'fly'"),
        ("train", "Missing option '--out'"),
        ("train --out {new} --waze 3", "No such option"),
        ("train --out {new} --ways 1", "Invalid value for '--ways': 1 is not in the range x>=2"),
        ("train --out {new} --ways many", "'many' is not a valid integer"),
        ("train --out {new} --ways 5000", "ways=5000 needs 5000 classes, but glyphs (train) has"),
        ("train --out {new} --shots 15 --queries 15", "shots + queries = 30 images per class"),
        ("train --out {new} --algorithm sgd", "'sgd' is not one of 'maml', 'fomaml'"),
        ("train --out {new} --algorithm protonet --inner-lr 1", "--inner-lr: protonet has no use"),
        (
            "train --out {new} --algorithm metasgd --rate-mode shared",
            "--rate-mode: metasgd has no use",
        ),
        ("train --out {new} --algorithm reptile --engine higher", "--engine: reptile has no use"),
        ("train --out {new} --background small1", "--background small1: only omniglot has it"),
        ("train --out {new} --outer-lr 0", "outer_lr must be positive, got 0.0"),
        ("train --out {new} --inner-lr -1", "inner_lr"),
        (
            "train --out {new} --data omniglot --root {empty}",
            "omniglot needs images_background.zip",
        ),
        ("train --out {new} --device gpu", "--device gpu: not a device"),
        ("train --out {file}", "file"),
        ("train --out {run}", "holds a run: go on with it"),
        ("train --out {run} --resume", "config.data.rotations was True, now None"),
        ("data", "Missing argument"),
        ("data glyphs --download", "--download: glyphs cannot be downloaded"),
        ("evaluate {new}", "no run at {new}: it must be a checkpoint file, or a folder with"),
        ("evaluate {file}", "is damaged, or not a checkpoint of this package"),
        ("evaluate pretrained:unknown", "no pretrained learner is called 'unknown'; available: "),
        ("evaluate {run} --norm group", "'group' is not one of 'batch', 'support'"),
        ("evaluate {run} --tasks 1", "1 is not in the range x>=2"),
        ("prune {run}", "Missing option '--out'"),
        ("prune {run} --out {new} --keep 0", "keep must be between 0 and 1, what there is, and"),
        ("prune {run} --out {new} --keep 0.5 --step 0", "--step must be positive, got 0"),
        ("prune {run} --out {new} --spare tail", "spare must be one of"),
        ("prune {run} --out {new} --score worth", "'worth' is not one of 'anp', 'lobs'"),
        ("prune {file} --out {new}", "is damaged, or not a checkpoint of this package"),
        ("export {file} {new}/x.safetensors", "is damaged, or not a checkpoint of this package"),
        ("export {run} {new}/file.bin", "FILE must end in .safetensors or .onnx, got {new}/file"),
        ("export {run} {file}/x.safetensors", "cannot write to {file}: {file} is a file"),
    ],
)
def test_a_mistake_is_answered_in_one_line(capsys, tmp_path, trained, arguments, said):
    (tmp_path / "file").write_text("not a checkpoint")
    places = {n: tmp_path / n for n in ("new", "file", "empty")} | {"run": trained}
    places["empty"].mkdir()
    filled = [word.format(**places) for word in arguments.split()]
    code = cli.run(filled)
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.err.startswith("metalearn-tut: ") and captured.err.count("\n") == 1
    assert said.format(**places) in captured.err and "Errno" not in captured.err
    assert not list((tmp_path / "new").glob("*"))


def test_debug_shows_where_a_mistake_happened(capsys, tmp_path, monkeypatch):
    arguments = ["evaluate", str(tmp_path / "absent")]
    for given, traced in ((arguments, False), ([*arguments, "--debug"], True)):
        assert cli.run(given) == 2
        assert ("Traceback" in capsys.readouterr().err) == traced
    monkeypatch.setenv("METALEARN_TUT_DEBUG", "1")
    assert cli.run(arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_should_not_happen_is_one_line_too(capsys, monkeypatch):
    def broken(options, arguments):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("metalearn_tut.cli.commands.export.export", broken)
    assert cli.run(["export", "run", "file"]) == 1
    assert (
        capsys.readouterr().err == "metalearn-tut: RuntimeError: two lines (--debug shows where)\n"
    )


def test_an_interrupted_run_says_how_to_go_on_and_does(capsys, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command(capsys, *TINY, "--out", whole)[0] == 0

    def interrupt(self, step, history, improved, original=checkpoint.RunFolder.keep):
        original(self, step, history, improved)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.RunFolder, "keep", interrupt)
        code, _, said = command(capsys, *TINY, "--out", stopped)
    assert code == 130 and said == [
        "metalearn-tut: training was stopped; last good checkpoint: "
        f"{stopped}/last.safetensors (step 4); resume=True (--resume) goes on from it"
    ]
    assert command(capsys, *TINY, "--out", stopped, "--resume")[0] == 0
    a, b = (checkpoint.read(run / "last.safetensors") for run in (whole, stopped))
    assert a[1] == b[1] and all(torch.equal(t, b[0][name]) for name, t in a[0].items())


# Several processes


@pytest.mark.slow
def test_two_processes_are_stopped_together_and_one_can_go_on(capsys, tmp_path, monkeypatch):
    """Stopped at a step that the clock decides, and compared with one process at that step."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    options = [*TINY, "--no-validate", "--save-every", 1, "--steps", 1_000_000]
    run = background.start("-m", "metalearn_tut", *options, "--out", shared, "--processes", 2)
    while not (shared / "last.safetensors").exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=background.HANG)
    assert run.returncode == 130, err
    assert err.split("\n")[-2].startswith("metalearn-tut: training was stopped; last good")
    assert "Traceback" not in err and out.count("parameters to train") == 1
    step = checkpoint.read(shared / "last.safetensors")[1]["step"]
    assert step >= 1

    def stop(self, number, history, improved, original=checkpoint.RunFolder.keep):
        original(self, number, history, improved)
        if number == step + 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.RunFolder, "keep", stop)
    assert command(capsys, *options, "--out", shared, "--resume")[0] == 130
    assert command(capsys, *options, "--out", alone)[0] == 130
    for name, p in parameters(alone).items():
        torch.testing.assert_close(parameters(shared)[name], p, rtol=1e-3, atol=1e-3)


def test_two_workers_make_the_run_of_one(capsys, trained, tmp_path, monkeypatch):
    asked, each = [], threads.workers
    monkeypatch.setattr(threads, "workers", lambda n: asked.append(n) or each(n))
    assert cli.run([*TINY, "--rotations", "--out", str(tmp_path), "--workers", "2"]) == 0
    for name, p in parameters(trained).items():
        assert torch.equal(p, parameters(tmp_path)[name])
    said, _ = [], capsys.readouterr()
    for workers in ("1", "2"):
        measure = ("evaluate", str(tmp_path), "--tasks", "5", "--workers", workers)
        said.append(command(capsys, *measure)[:2])
    assert said[0] == said[1] and asked == [2, 1, 2]
    assert command(capsys, "train", "--out", str(tmp_path), "--workers", "0")[0] == 2


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(capfd, trained, tmp_path, monkeypatch):
    assert cli.run([*TINY, "--rotations", "--out", str(tmp_path), "--processes", "2"]) == 0
    for name, p in parameters(tmp_path / "last.safetensors").items():
        one = parameters(trained / "last.safetensors")[name]
        torch.testing.assert_close(p, one, rtol=1e-5, atol=1e-5)
    assert capfd.readouterr().out.count("validation accuracy") == 1
    # and when all fail, one speaks, however long the others were
    monkeypatch.setattr(cli_launch, "_GRACE", background.HANG)
    assert cli.run([*TINY, "--out", str(tmp_path), "--processes", "2"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("metalearn-tut: ") and said.count("\n") == 1 and "holds a run" in said
