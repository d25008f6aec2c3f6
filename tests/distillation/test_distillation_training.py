"""Meta distillation through training, checkpoints, evaluation and deployment."""

import signal
import subprocess
import sys
from pathlib import Path

import background
import pytest
import torch
import training_runs
from safetensors.torch import load_model, save_model
from torch import nn
from training_runs import PARTS, distiller, learner, resumable, sampler

from metalearn_tut import MAML, evaluate, meta_train, models, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.evaluation import cost
from metalearn_tut.training import checkpoint

SETTINGS = {"steps": 5, "tasks_per_step": 3, "progress": False}


def large():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def ends(learner):
    return {n: p.detach() for n, p in learner.meta_parameters().items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], expected[n]) for n in found
    )


@pytest.mark.parametrize("clip", [None, 0.05])
def test_each_of_the_two_trains_as_it_would_alone_at_its_own_rate(clip):
    """Bitwise, with a clipped meta-gradient as well: teacher and student are clipped apart."""
    both = MetaDistiller(MAML(large(), 0.3, 2), learner(), kd_weight=0)
    meta_train(both, sampler(), outer_lr=PARTS, clip=clip, **SETTINGS)
    for name, alone in (("teacher", MAML(large(), 0.3, 2)), ("student", learner())):
        start = ends(alone)
        start = {n: p.clone() for n, p in start.items()}
        meta_train(alone, sampler(), outer_lr=PARTS[name], clip=clip, **SETTINGS)
        found = {n: p for n, p in ends(both).items() if n.startswith(f"{name}.")}
        assert same(found, {f"{name}.{n}": p for n, p in ends(alone).items()})
        assert not any(torch.equal(start[n], p) for n, p in ends(alone).items())


def test_a_fixed_teacher_has_no_rate():
    fixed = MetaDistiller(MAML(large(), 0.3, 2), learner(), fixed_teacher=True)
    with pytest.raises(ValueError, match="a rate for 'teacher', which is no part of the learner"):
        meta_train(fixed, sampler(), outer_lr=PARTS, **SETTINGS)
    meta_train(fixed, sampler(), outer_lr={"student": 0.01}, **SETTINGS)


@pytest.mark.slow
def test_a_killed_run_ends_bitwise_as_if_it_had_not_been(tmp_path):
    run = subprocess.run(
        [sys.executable, Path(training_runs.__file__), "distil", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        timeout=background.HANG,
    )
    assert run.stdout.split() == [str(signal.SIGKILL.value)] * 2 + ["0"]
    resumable(tmp_path / "whole", base=distiller(), outer_lr=PARTS)
    for name in ("last", "best"):
        (killed, ended), (whole, expected) = (
            checkpoint.read(tmp_path / folder / f"{name}.safetensors")
            for folder in ("run", "whole")
        )
        assert same(killed, whole) and ended == expected
    assert expected["run"]["training"]["outer_lr"] == PARTS
    with pytest.raises(ValueError, match=r"training.outer_lr.teacher was 0.01, now 0.02"):
        resumable(tmp_path / "run", base=distiller(), outer_lr={**PARTS, "teacher": 0.02})


def test_a_checkpoint_holds_both_and_fits_this_pair_alone(tmp_path):
    trained, fresh = distiller(seed=0), distiller(seed=1)
    checkpoint.save(tmp_path / "pair.safetensors", trained)
    checkpoint.load(tmp_path / "pair.safetensors", fresh)
    assert same(ends(fresh), ends(trained))
    support = sampler()[0].support_x, sampler()[0].support_y
    torch.manual_seed(0)  # of the teacher's dropout
    expected = trained.adapt(*support).params
    torch.manual_seed(0)
    assert same(fresh.adapt(*support).params, expected)
    with pytest.raises(ValueError, match=r"architecture: teacher.0.bias is \[16\] .* \[9\]"):
        checkpoint.load(tmp_path / "pair.safetensors", distiller(width=9))


def test_evaluation_is_of_the_student():
    glyphs = tasks.glyphs("validation").sampler(3, 1, 2, seed=0)
    pair = MetaDistiller(
        MAML(models.Conv4(1, 3, width=6, norm="batch"), 0.1, 1),
        MAML(models.Conv4(1, 3, width=3, norm="batch"), 0.2, 2),
    )
    result = evaluate(pair, glyphs, 4)
    rights = []
    for i in range(4):
        task = glyphs[i]
        answers = pair.adapt(task.support_x, task.support_y)(task.query_x).argmax(1)
        rights.append((answers == task.query_y).float().mean())
    assert torch.equal(result.values, torch.stack(rights))
    assert result.steps == 2 and result.protocol.startswith("transductive")
    unadapted = evaluate(pair, glyphs, 4, steps=0)
    assert torch.equal(unadapted.values, evaluate(pair.student, glyphs, 4, steps=0).values)


def test_what_is_deployed_is_the_student_alone_saved_loaded_counted_and_timed(tmp_path):
    torch.manual_seed(0)
    teacher, student = (models.Conv4(1, 3, width=w, norm="support") for w in (32, 3))
    task = tasks.glyphs("validation").sampler(3, 1, 2, seed=0)[0]
    pair = MetaDistiller(MAML(teacher, 0.1, 1), MAML(student, 0.2, 2))
    predict = pair.adapt(task.support_x, task.support_y)
    network = predict.deploy()
    found, alone = (cost.measure(m, (1, 28, 28)) for m in (network, student))
    assert (found.parameters, found.macs) == (alone.parameters, alone.macs)
    assert found.size_bytes < cost.size_bytes(teacher) / 20
    assert found.macs < cost.macs(teacher, (1, 28, 28)) / 20 and found.latency > 0
    save_model(network, tmp_path / "student.safetensors")
    copy = MAML(models.Conv4(1, 3, width=3, norm="support")).adapt(task.support_x, task.support_y)
    copy = copy.deploy()
    load_model(copy, tmp_path / "student.safetensors")
    x = task.query_x.float() / 255
    torch.testing.assert_close(copy(x), predict(task.query_x))
    assert torch.equal(copy(x), network(x))
