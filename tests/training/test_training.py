"""Training: the loop against one written out, exact resume, shared work, and what can go wrong."""

import errno
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import background
import pytest
import torch
import training_runs
from torch import nn
from training_runs import learner, resumable, sampler

from metalearn_tut import MAML, Reptile, tasks
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.learners.learner import TaskLosses
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import History, NonFiniteLoss, meta_train
from metalearn_tut.training.outer_rates import cosine, parameter_groups

SCRIPT = Path(training_runs.__file__)


class Quadratic:
    """loss_i = 0.5 |w - c_i|^2 with c_i the mean of the task's query set."""

    def __init__(self, dtype=torch.float64):
        self.w = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.0], dtype=dtype, requires_grad=True)
        self.seen = []

    def meta_parameters(self):
        return {"w": self.w}

    def task_losses(self, batch, progress=1.0):
        self.seen.append((batch, progress))
        centers = batch.query_x.to(self.w).mean(1)
        return TaskLosses(0.5 * (self.w - centers).square().sum(-1), None)


class Scripted(Quadratic):
    """A learner whose accuracy, in adapt, is a given number of right answers."""

    def __init__(self, rights):
        super().__init__()
        self.rights = iter(rights)

    def adapt(self, support_x, support_y):
        right = next(self.rights)

        def predict(x):  # queries are class after class, 3 classes of 3
            answers = torch.arange(3).repeat_interleave(3)
            answers[right:] = (answers[right:] + 1) % 3
            return nn.functional.one_hot(answers).float()

        return predict


def train(trained, tasks_from=None, **settings):
    settings = {"steps": 6, "tasks_per_step": 3, "outer_lr": 0.1, "progress": False, **settings}
    return meta_train(trained, sampler() if tasks_from is None else tasks_from, **settings)


def contents(path):
    """Everything in a checkpoint, as bytes and JSON."""
    tensors, state = checkpoint.read(path)
    return {n: (t.shape, t.dtype, t.numpy().tobytes()) for n, t in tensors.items()}, state


def files_in(folder):
    return {path.name for path in folder.iterdir()}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# The algorithm


@pytest.mark.parametrize("clip", [None, 0.5])
def test_training_is_adam_on_the_aggregated_meta_gradient(clip):
    trained = Quadratic()
    w = trained.w.detach().clone()
    history = train(trained, clip=clip, aggregate=torch.max)
    m, v, losses = torch.zeros_like(w), torch.zeros_like(w), []
    for step in range(6):
        centers = sampler().batch(step, 3).query_x.double().mean(1)
        values = 0.5 * (w - centers).square().sum(-1)
        gradient = w - centers[values.argmax()]
        if clip is not None:
            gradient = gradient * min(1.0, clip / gradient.norm().item())
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 6))
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        w = w - rate * m_hat / (v_hat.sqrt() + 1e-8)
        losses.append(values.mean().item())
    # clip_grad_norm_ divides by the norm plus 1e-6
    torch.testing.assert_close(trained.w.detach(), w, rtol=1e-10 if clip is None else 1e-5, atol=0)
    assert history.loss == pytest.approx(losses, rel=1e-12 if clip is None else 1e-6)
    assert history.accuracy == [] and history.validation == []


def test_the_cosine_schedule_by_hand():
    assert [cosine(s, 4) for s in range(5)] == pytest.approx(
        [1, (2 + 2**0.5) / 4, 0.5, 0.14644661, 0]
    )


def test_parts_of_a_learner_have_rates_of_their_own():
    """Against Adam of each part; a clipped gradient is clipped for each part, too."""
    rates = {"0": 0.01, "2": 0.03, "rates": 0.002}
    found, expected = learner(), learner()
    train(found, outer_lr=rates, clip=0.02, schedule="constant")
    metas = expected.meta_parameters()
    parts = {g: [p for n, p in metas.items() if n.split(".")[0] == g] for g in rates}
    adams = [torch.optim.Adam(parts[g], lr=rate) for g, rate in rates.items()]
    for step in range(6):
        losses, _ = expected.task_losses(sampler().batch(step, 3))
        expected.model.zero_grad()
        for adam in adams:
            adam.zero_grad()
        losses.mean().backward()
        for g, adam in zip(rates, adams, strict=True):
            norm = torch.nn.utils.clip_grad_norm_(parts[g], 0.02)
            assert norm > 0.02 or g == "rates"
            adam.step()
    for name, p in found.meta_parameters().items():
        assert torch.equal(p, metas[name]), name


def test_a_part_has_the_dotted_names_that_begin_with_it_and_no_others():
    metas = {name: torch.ones(1) for name in ("a.w", "a.b", "ab.w", "a")}
    groups = parameter_groups(metas, {"ab": 0.1, "a": 0.2})
    assert [[id(p) for p in g["params"]] for g in groups] == [
        [id(metas["ab.w"])],
        [id(metas[n]) for n in ("a.w", "a.b", "a")],
    ]
    with pytest.raises(ValueError, match=r"one rate for 'a\.w', got .*'ab'"):
        parameter_groups(metas, {"a": 0.1, "a.w": 0.2, "ab": 0.1})


def test_a_constant_schedule_keeps_the_rate():
    trained = Quadratic()
    target = tasks.from_arrays(torch.zeros(30, 6), torch.arange(30) % 3).sampler(3, 2, 3)
    start = trained.w.detach().clone()
    train(trained, target, schedule="constant", steps=2)
    # with a gradient that hardly changes, each of Adam's steps is the rate
    moved = (start - trained.w.detach())[[0, 1, 4]].abs()
    torch.testing.assert_close(moved, torch.full((3,), 0.2, dtype=torch.float64), atol=2e-3, rtol=0)


def test_the_learner_sees_every_task_in_order_without_its_tags():
    trained = Quadratic()
    train(trained)
    assert [progress for _, progress in trained.seen] == [s / 6 for s in range(6)]
    for step, (batch, _) in enumerate(trained.seen):
        expected = sampler().batch(step, 3)
        assert expected.tags and not batch.tags and all(not task.tags for task in batch)
        torch.testing.assert_close(batch.query_x, expected.query_x, rtol=0, atol=0)


def test_history_is_the_mean_loss_and_accuracy_of_each_step():
    reference = learner().task_losses(sampler().batch(0, 3), 0.0)
    history = train(learner())
    assert history.loss[0] == pytest.approx(reference.losses.mean().item(), rel=1e-6)
    assert history.accuracy[0] == pytest.approx(reference.accuracy.mean().item(), rel=1e-6)
    assert len(history.loss) == len(history.accuracy) == 6


def test_training_leaves_the_random_numbers_of_the_caller_alone():
    trained = training_runs.Noisy(learner())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(trained)
    assert torch.equal(torch.rand(2), expected)


# Validation and the best state


def test_the_best_checkpoint_is_the_first_of_the_highest_validation(tmp_path):
    trained = Scripted(
        [0, 3, 5, 9, 7, 8, 8, 6, 9]
    )  # one is tried, then four validations of two, of nine
    after = {}
    task_losses = trained.task_losses

    def remember(batch, progress=1.0):
        after[len(after)] = trained.w.detach().clone()
        return task_losses(batch, progress)

    trained.task_losses = remember
    history = train(
        trained, validation=sampler(1), validate_every=2, validation_tasks=2, steps=8, out=tmp_path
    )
    means = [entry["mean"] * 9 for entry in history.validation]
    assert [entry["step"] for entry in history.validation] == [2, 4, 6, 8]
    assert means == pytest.approx([4, 8, 8, 7.5])
    assert history.best() == history.validation[1]
    tensors, state = checkpoint.read(tmp_path / "best.safetensors")
    assert state["step"] == 4 and torch.equal(tensors["meta.w"], after[4])
    assert checkpoint.read(tmp_path / "last.safetensors")[1]["step"] == 8


def test_validation_is_the_evaluation_of_the_validation_tasks(tmp_path):
    settings = {"validation": sampler(1), "validate_every": 4, "validation_tasks": 7}
    trained = learner()
    history = train(trained, out=tmp_path, restore_best=False, **settings)
    assert [entry["step"] for entry in history.validation] == [4, 6]
    result = evaluate(trained, sampler(1), 7)
    last = history.validation[-1]
    assert (last["mean"], last["half_width"]) == (result.mean, result.half_width)
    assert json.loads((tmp_path / "history.json").read_text()) == vars(history)


def test_a_run_without_validation_has_no_best(tmp_path):
    history = train(Quadratic(), out=tmp_path)
    assert files_in(tmp_path) == {"last.safetensors", "history.json"}
    with pytest.raises(ValueError, match="was not validated"):
        history.best()


# Resume


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trained, history = resumable(folder)
    return folder, trained, history


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_bitwise_as_if_it_had_not_been(tmp_path, uninterrupted):
    run = subprocess.run(
        [sys.executable, SCRIPT, "kill", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        timeout=background.HANG,
    )
    *deaths, planned, unplanned = run.stdout.splitlines()
    assert [line.split(":")[0] for line in deaths] == list(training_runs.DEATHS)
    for line in deaths:  # each was killed, and left what it could not finish to the next start
        name, left = line.split(": ")
        assert left.startswith(f"{signal.SIGKILL.value} "), line
        assert left.count(" .") == ("half way" in name or "not yet" in name), line
    assert planned == unplanned == "to the end: 0"
    folder, *_ = uninterrupted
    for name in ("planned", "unplanned"):
        assert files_in(tmp_path / name) == files_in(folder)
        for file in ("last.safetensors", "best.safetensors"):
            assert contents(tmp_path / name / file) == contents(folder / file), (name, file)
        assert (tmp_path / name / "history.json").read_text() == (
            folder / "history.json"
        ).read_text()


def test_a_finished_run_resumes_to_itself(uninterrupted):
    folder, trained, history = uninterrupted
    again, same = resumable(folder)
    assert same == history and isinstance(same, History)
    for name, p in again.meta_parameters().items():
        assert torch.equal(p, trained.meta_parameters()[name]), name


def test_a_run_is_not_overwritten(tmp_path):
    train(Quadratic(), out=tmp_path)
    before = contents(tmp_path / "last.safetensors")
    with pytest.raises(
        FileExistsError, match=r"holds a run: go on with it \(resume=True.*--resume"
    ):
        train(Quadratic(), out=tmp_path)
    assert contents(tmp_path / "last.safetensors") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 9}, "training.steps was 6, now 9"),
        ({"outer_lr": 0.2}, "training.outer_lr was 0.1, now 0.2"),
        ({"outer_lr": {"w": 0.1}}, "training.outer_lr was 0.1, now {'w': 0.1}"),
        ({"aggregate": training_runs.trimmed}, "training.aggregate was .*mean.*, now .*trimmed"),
        ({"tasks_from": sampler(5)}, "training.sampler.seed was 0, now 5"),
        ({"clip": 1.0}, "training.clip was None, now 1.0"),
        ({"config": {"model": {"width": 64}}}, "config.model.width was 32, now 64"),
        ({"config": {}}, "config.model was {'width': 32}, now None"),
        ({"trained": Quadratic(torch.float32)}, "dtype was 'torch.float64', now 'torch.float32'"),
        ({"trained": learner()}, "learner.method was 'Quadratic', now 'MAML'"),
    ],
)
def test_resuming_another_run_is_refused_and_says_what_differs(tmp_path, change, said):
    first = {"out": tmp_path, "config": {"model": {"width": 32}}, "resume": True}
    train(Quadratic(), **first)
    kept = contents(tmp_path / "last.safetensors")
    change = dict(change)
    other = change.pop("trained", Quadratic())
    start = [p.detach().clone() for p in other.meta_parameters().values()]
    with pytest.raises(ValueError, match=f"cannot resume .*{said}"):
        train(other, **{**first, **change})
    for p, before in zip(other.meta_parameters().values(), start, strict=True):
        assert torch.equal(p, before)
    assert contents(tmp_path / "last.safetensors") == kept


def test_a_checkpoint_of_another_architecture_is_refused_and_changes_nothing(tmp_path):
    wide = MAML(nn.Linear(6, 4), inner_lr=0.1)
    checkpoint.save(tmp_path / "wide.safetensors", wide)
    narrow = MAML(nn.Linear(6, 3), inner_lr=0.1)
    before = narrow.model.weight.detach().clone()
    with pytest.raises(ValueError, match=r"another architecture: bias is \[4\] .* and \[3\] in"):
        checkpoint.load(tmp_path / "wide.safetensors", narrow)
    with pytest.raises(ValueError, match=r"architecture: rates is absent in the file and \[\] in"):
        one = MAML(nn.Linear(6, 4), inner_lr=0.1, rate_mode="shared")
        checkpoint.load(tmp_path / "wide.safetensors", one)
    assert torch.equal(narrow.model.weight, before)


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "empty", "other"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "last.safetensors"
    train(Quadratic(), out=tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "other":
        from safetensors.torch import save_file

        save_file({"w": torch.zeros(2)}, path)
    else:
        flipped = bytes([*data[:-5], data[-5] ^ 1, *data[-4:]])
        damaged = {"cut": data[:-1], "flipped": flipped, "garbage": b"\1" * 100, "empty": b""}
        path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"last\.safetensors is damaged, or not a checkpoint"):
        train(Quadratic(), out=tmp_path, resume=True)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.safetensors"):
        checkpoint.load(tmp_path / "absent.safetensors", Quadratic())


# A disk that is full, a loss that is not finite, a reader who stops it


def full_disk(path, data):
    with Path(path).open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("kind", ["no space left", "a real limit"])
def test_a_full_disk_loses_no_checkpoint_and_leaves_no_partial_file(tmp_path, monkeypatch, kind):
    trained = Quadratic()
    kept = {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    task_losses = trained.task_losses

    def fill_disk(batch, progress=1.0):
        if len(trained.seen) == 3:
            kept["last"] = contents(tmp_path / "last.safetensors")
            if kind == "no space left":
                monkeypatch.setattr(Path, "write_bytes", full_disk)
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return task_losses(batch, progress)

    trained.task_losses = fill_disk
    try:
        with pytest.raises(OSError, match=r"cannot write .*last\.safetensors: .*") as caught:
            train(trained, out=tmp_path, save_every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert caught.value.errno == (errno.ENOSPC if kind == "no space left" else errno.EFBIG)
    assert files_in(tmp_path) == {"last.safetensors"}
    assert contents(tmp_path / "last.safetensors") == kept["last"]
    assert kept["last"][1]["step"] == 2
    again = Quadratic()
    train(again, out=tmp_path, save_every=2, resume=True)
    whole = Quadratic()
    train(whole)
    assert torch.equal(again.w, whole.w)


class Diverging(Quadratic):
    """The second task of step 3 has a loss that is not finite, or one whose gradient is not."""

    def __init__(self, what, value=math.nan):
        super().__init__()
        self.what, self.value = what, value

    def task_losses(self, batch, progress=1.0):
        losses, _ = super().task_losses(batch, progress)
        if len(self.seen) == 4:
            if self.what == "loss":
                losses = losses + torch.tensor([0.0, self.value, 0.0])
            else:  # sqrt at 0: a finite value, an infinite slope
                losses = losses + (self.w - self.w.detach()).abs().sum().sqrt()
        return TaskLosses(losses, None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_tasks_and_last_good_checkpoint(tmp_path, value):
    trained = Diverging("loss", value)
    with pytest.raises(NonFiniteLoss) as caught:
        train(trained, out=tmp_path, save_every=2)
    assert str(caught.value) == (
        "loss is not finite at step 3, task indices [10]; "
        f"last good checkpoint: {tmp_path}/last.safetensors (step 2)"
    )
    assert torch.isfinite(trained.w).all()
    with pytest.raises(NonFiniteLoss, match="no checkpoint was saved"):
        train(Diverging("loss"))


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_parameters(tmp_path):
    trained = Diverging("gradient")
    with pytest.raises(NonFiniteLoss, match=r"meta-gradient .* step 3, task indices \[9, 10, 11\]"):
        train(trained, out=tmp_path, save_every=1)
    assert torch.isfinite(trained.w).all()
    assert checkpoint.read(tmp_path / "last.safetensors")[1]["step"] == 3


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    trained = Quadratic()
    task_losses = trained.task_losses

    def interrupted(batch, progress=1.0):
        if len(trained.seen) == 5:
            raise KeyboardInterrupt
        return task_losses(batch, progress)

    trained.task_losses = interrupted
    with pytest.raises(KeyboardInterrupt) as caught:
        train(trained, out=tmp_path, save_every=2)
    assert str(caught.value) == (
        f"training was stopped; last good checkpoint: {tmp_path}/last.safetensors (step 4); "
        "resume=True (--resume) goes on from it"
    )
    again, whole = Quadratic(), Quadratic()
    train(again, out=tmp_path, save_every=2, resume=True)
    train(whole)
    assert torch.equal(again.w, whole.w)


# Several processes


def test_two_processes_follow_one(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(
        [*launcher, *address, SCRIPT, "share", tmp_path],
        env=environment,
        check=True,
        capture_output=True,
        timeout=background.HANG,
    )
    for case in training_runs.SHARED:
        alone = training_runs.shared(case, tmp_path / f"{case}-alone")
        first, second = (torch.load(tmp_path / f"{case}-{rank}.pt") for rank in (0, 1))
        memories = [(tmp_path / f"{case}-{rank}.json").read_text() for rank in (0, 1)]
        assert memories[0] == memories[1], case
        for name, p in alone.items():
            assert torch.equal(first[name], second[name]), (case, name)
            torch.testing.assert_close(first[name], p.detach(), rtol=1e-5, atol=1e-6)
        for file in ("last", "best"):
            (_, shared), (_, single) = (
                checkpoint.read(tmp_path / folder / f"{file}.safetensors")
                for folder in (case, f"{case}-alone")
            )
            assert shared["step"] == single["step"] and shared["run"] == single["run"]
            for a, b in zip(shared["validation"], single["validation"], strict=True):
                assert a == pytest.approx(b, rel=1e-6)
            assert [kept for *_, kept in shared["memory"].get("log", [])] == [
                kept for *_, kept in single["memory"].get("log", [])
            ]


# Wrong arguments


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"tasks_per_step": 0}, "tasks_per_step must be an integer >= 1, got 0"),
        ({"outer_lr": 0.0}, "outer_lr must be positive, got 0.0"),
        ({"outer_lr": math.nan}, "outer_lr must be positive, got nan"),
        ({"outer_lr": {"w": -1.0}}, r"outer_lr\['w'\] must be positive, got -1.0"),
        ({"outer_lr": {}}, "outer_lr must have a rate for every meta-parameter, got {}"),
        ({"outer_lr": {"v": 0.1}}, "outer_lr must have one rate for 'w', got {'v': 0.1}"),
        ({"outer_lr": {"w": 0.1, "v": 0.1}}, "has a rate for 'v', which is no part"),
        ({"clip": -1.0}, "clip must be positive, got -1.0"),
        ({"schedule": "linear"}, "schedule must be one of 'cosine', 'constant', got 'linear'"),
        ({"save_every": 0}, "save_every must be an integer >= 1, got 0"),
        ({"validate_every": 0}, "validate_every must be an integer >= 1, got 0"),
        ({"config": {"root": Path("x")}, "out": "x"}, "config must be JSON"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_happens(settings, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = Quadratic()
    with pytest.raises(ValueError, match=said):
        train(trained, **settings)
    assert not trained.seen and not files_in(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    trained = Quadratic()
    with pytest.raises(OSError, match="file"):
        train(trained, out=tmp_path / "file")
    assert not trained.seen


def test_reptile_trains_by_the_same_loop():
    trained = Reptile(nn.Linear(6, 3), inner_lr=0.1)
    start = trained.model.weight.detach().clone()
    gradient = trained.task_losses(sampler().batch(0, 3)).losses.mean()
    (expected,) = torch.autograd.grad(gradient, [trained.model.weight])
    train(trained, steps=1)
    moved = start - trained.model.weight.detach()
    torch.testing.assert_close(moved, 0.1 * expected.sign(), atol=1e-4, rtol=0)
