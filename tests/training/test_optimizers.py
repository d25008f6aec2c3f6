"""Any PyTorch optimizer and scheduler: against loops written out, resumed exactly, or refused."""

import json
import math
from functools import partial

import pytest
import torch
from test_training import Quadratic, contents, train
from torch import nn
from torch.optim import lr_scheduler
from training_runs import learner, sampler

from metalearn_tut import MAML, ProtoNet, meta_train, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.learners.state import state_of
from metalearn_tut.models import Conv4
from metalearn_tut.rank_losses import Oracle
from metalearn_tut.training import checkpoint
from metalearn_tut.training.kept_state import join, split

STEPS = 6
OPTIMIZERS = {
    "SGD with momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1, amsgrad=True),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5),
    "ASGD": partial(torch.optim.ASGD, lr=0.05, t0=2),
    "a rate that is a tensor": lambda ps: torch.optim.Adam(ps, lr=torch.tensor(0.01)),
}
SCHEDULERS = {
    "none": lambda optimizer: None,
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=STEPS),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS),
    "warm-up": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
            lr_scheduler.ExponentialLR(optimizer, 0.7),
        ],
        milestones=[3],
    ),
    "a function": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.8**step),
}


def parameters(trained):
    return list(trained.meta_parameters().values())


def made(trained, optimizer="SGD with momentum", scheduler="none"):
    """Arguments of training, made anew for this learner."""
    own = OPTIMIZERS[optimizer](parameters(trained))
    return {"outer_lr": None, "optimizer": own, "scheduler": SCHEDULERS[scheduler](own)}


def by_hand(trained, optimizer, scheduler=None, skipped=()):
    """The loop as PyTorch's documentation writes it."""
    for step in range(STEPS):
        optimizer.zero_grad()
        losses, _ = trained.task_losses(sampler().batch(step, 3))
        if step not in skipped:
            losses.mean().backward()
            optimizer.step()
        if scheduler is not None:
            scheduler.step()


# The loop


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        *((name, "cosine") for name in OPTIMIZERS if name != "a rate that is a tensor"),
        *(("SGD with momentum", name) for name in SCHEDULERS),
        ("a rate that is a tensor", "none"),
    ],
)
def test_training_is_the_loop_of_pytorch_bit_for_bit(optimizer, scheduler):
    found, expected = learner(), learner()
    train(found, **made(found, optimizer, scheduler))
    own = made(expected, optimizer, scheduler)
    by_hand(expected, own["optimizer"], own["scheduler"])
    for p, q in zip(parameters(found), parameters(expected), strict=True):
        assert torch.equal(p, q)


def test_sgd_with_momentum_and_decay_by_hand():
    trained = Quadratic()
    w, v = trained.w.detach().clone(), None
    own = torch.optim.SGD([trained.w], lr=0.1, momentum=0.9, weight_decay=0.01)
    train(trained, outer_lr=None, optimizer=own)
    for step in range(STEPS):
        gradient = w - sampler().batch(step, 3).query_x.double().mean((0, 1)) + 0.01 * w
        v = gradient if v is None else 0.9 * v + gradient
        w = w - 0.1 * v
    torch.testing.assert_close(trained.w.detach(), w, rtol=1e-10, atol=0)


def test_without_a_scheduler_the_rate_stays():
    trained = learner()
    own = made(trained)
    train(trained, **own)
    assert [group["lr"] for group in own["optimizer"].param_groups] == [0.1]


def test_the_usual_optimizer_is_adam_with_a_cosine():
    found, expected = learner(), learner()
    train(found)
    adam = torch.optim.Adam(parameters(expected), lr=0.1)
    cosine = lr_scheduler.LambdaLR(adam, lambda s: 0.5 * (1 + math.cos(math.pi * s / STEPS)))
    train(expected, outer_lr=None, optimizer=adam, scheduler=cosine)
    for p, q in zip(parameters(found), parameters(expected), strict=True):
        assert torch.equal(p, q)


@pytest.mark.filterwarnings("error")
def test_a_skipped_step_moves_the_clock_and_nothing_else():
    noisy = {0, 1, 2, 9, 10, 11}  # all tasks of steps 0 and 3
    found, expected = learner(), learner()
    own = made(found, scheduler="a function")
    history = train(found, aggregate=Oracle(noisy.__contains__), **own)
    assert history.skipped == [0, 3]
    sgd = OPTIMIZERS["SGD with momentum"](parameters(expected))
    for step in range(STEPS):
        sgd.param_groups[0]["lr"] = 0.1 * 0.8**step
        losses, _ = expected.task_losses(sampler().batch(step, 3))
        sgd.zero_grad()
        if step not in (0, 3):
            losses.mean().backward()
            sgd.step()
    for p, q in zip(parameters(found), parameters(expected), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_frozen_parameters_may_be_in_the_optimizer():
    trained, whole = learner(), learner()
    frozen = next(trained.model.parameters()).requires_grad_(False)
    before = frozen.detach().clone()
    everything = [*trained.model.parameters(), *trained.learned_rates.values()]
    train(trained, outer_lr=None, optimizer=torch.optim.SGD(everything, lr=0.1, weight_decay=0.1))
    assert torch.equal(frozen, before)
    assert not torch.equal(trained.model[2].weight, whole.model[2].weight)


ASIDE = {  # learners with parameters that are no meta-parameters
    "a head that starts at zero": lambda: MAML(Conv4(1, 3, width=4, image_size=16), zero_head=True),
    "a head that is not used": lambda: ProtoNet(Conv4(1, 3, width=4, image_size=16)),
    "a teacher that is fixed": lambda: MetaDistiller(
        *(MAML(Conv4(1, 3, width=4, image_size=16), 0.1) for _ in range(2)), fixed_teacher=True
    ),
    "frozen": lambda: MAML(Conv4(1, 3, width=4, image_size=16), 0.1),
}


@pytest.mark.parametrize("kind", ASIDE)
@pytest.mark.parametrize("gradients", [False, True])
def test_of_all_parameters_only_the_meta_parameters_move_or_decay(kind, gradients):
    torch.manual_seed(0)
    trained = ASIDE[kind]()
    if kind == "frozen":
        trained.model.blocks.requires_grad_(False)
    metas = {id(p) for p in trained.meta_parameters().values()}
    aside = [p for p in trained.parameters() if id(p) not in metas]
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.1)
            p.grad = torch.ones_like(p) if gradients else None  # from a loop before
    before = [p.detach().clone() for p in aside]
    x, y = torch.rand(30, 1, 16, 16), torch.arange(30) % 3
    pictures = tasks.from_arrays(x, y).sampler(3, 1, 2)
    own = torch.optim.AdamW(trained.parameters(), lr=0.01, weight_decay=0.5)
    meta_train(trained, pictures, steps=2, tasks_per_step=2, optimizer=own, progress=False)
    assert aside and all(torch.equal(p, q) for p, q in zip(aside, before, strict=True))
    assert all(p in own.state for p in trained.meta_parameters().values())


@pytest.mark.parametrize("optimizer", ["SGD with momentum", "AdamW"])
def test_what_an_optimizer_remembers_moves_no_pruned_weight(optimizer):
    trained = learner()
    own = made(trained, optimizer)
    train(trained, **own)
    mask = torch.arange(48).view(8, 6) % 2
    trained.set_masks({"0.weight": mask})
    train(trained, **own)
    weight = trained.model[0].weight
    assert not weight[mask == 0].any() and weight[mask == 1].all()


# Resume


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_stopped_run_goes_on_to_the_bit(tmp_path, optimizer, scheduler):
    if (optimizer, scheduler) == ("ASGD", "one cycle"):
        pytest.skip("PyTorch's cycle needs a momentum")
    whole, stopped, resumed = learner(), learner(), learner()
    options = {"out": tmp_path / "whole", "save_every": 1}
    history = train(whole, **options, **made(whole, optimizer, scheduler))
    step, task_losses = iter(range(9)), stopped.task_losses

    def stop(batch, progress=1.0):
        if next(step) == 4:
            raise KeyboardInterrupt
        return task_losses(batch, progress)

    stopped.task_losses = stop
    options |= {"out": tmp_path / "cut"}
    with pytest.raises(KeyboardInterrupt, match="step 4"):
        train(stopped, **options, **made(stopped, optimizer, scheduler))
    own = made(resumed, optimizer, scheduler)
    assert train(resumed, **options, **own, resume=True) == history
    files = (contents(tmp_path / run / "last.safetensors") for run in ("whole", "cut"))
    assert next(files) == next(files)
    for p, q in zip(parameters(resumed), parameters(whole), strict=True):
        assert torch.equal(p, q)


ADVANCED = {**SCHEDULERS, "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2)}


@pytest.mark.parametrize("scheduler", ADVANCED)
def test_a_stopped_run_goes_on_with_the_objects_that_it_had(tmp_path, scheduler):
    whole, trained = learner(), learner()
    own = OPTIMIZERS["SGD with momentum"](parameters(whole))
    train(whole, outer_lr=None, optimizer=own, scheduler=ADVANCED[scheduler](own))
    own = OPTIMIZERS["SGD with momentum"](parameters(trained))
    options = {"outer_lr": None, "optimizer": own, "scheduler": ADVANCED[scheduler](own)}
    step, task_losses = iter(range(99)), trained.task_losses

    def stop(batch, progress=1.0):
        if next(step) == 5:
            raise KeyboardInterrupt
        return task_losses(batch, progress)

    trained.task_losses = stop
    options |= {"out": tmp_path, "save_every": 2}
    with pytest.raises(KeyboardInterrupt, match="step 4"):
        train(trained, **options)
    train(trained, **options, resume=True)
    for p, q in zip(parameters(trained), parameters(whole), strict=True):
        assert torch.equal(p, q)


def test_another_part_of_a_scheduler_is_another_run(tmp_path):
    trained, other = learner(), learner()
    train(trained, out=tmp_path, **made(trained, scheduler="warm-up"))
    own = OPTIMIZERS["SGD with momentum"](parameters(other))
    parts = [
        lr_scheduler.LinearLR(own, 0.1, total_iters=3),
        lr_scheduler.ExponentialLR(own, 0.8),
    ]
    changed = lr_scheduler.SequentialLR(own, parts, milestones=[3])
    with pytest.raises(ValueError, match=r"cannot resume .*training.scheduler.parts was .*0\.7"):
        train(other, out=tmp_path, outer_lr=None, optimizer=own, scheduler=changed, resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (partial(torch.optim.SGD, lr=0.1), "optimizer.group 0.momentum was 0.9, now 0"),
        (partial(torch.optim.SGD, lr=0.2, momentum=0.9), "optimizer.group 0.lr was 0.1, now 0.2"),
        (
            partial(torch.optim.RMSprop, lr=0.1, momentum=0.9),
            "optimizer.class was 'torch.optim.sgd.SGD', now 'torch.optim.rmsprop.RMSprop'",
        ),
        (
            lambda ps: torch.optim.SGD(ps[::-1], lr=0.1, momentum=0.9),
            r"optimizer.group 0.parameters was \['0.weight'",
        ),
        (None, "training.optimizer was {'class': .*, now None"),
    ],
)
def test_another_optimizer_is_another_run(tmp_path, change, said):
    trained, other = learner(), learner()
    first = torch.optim.SGD(parameters(trained), lr=0.1, momentum=0.9)
    train(trained, out=tmp_path, outer_lr=None, optimizer=first)
    own = {} if change is None else {"outer_lr": None, "optimizer": change(parameters(other))}
    with pytest.raises(ValueError, match=f"cannot resume .*{said}"):
        train(other, out=tmp_path, resume=True, **own)


def test_another_scheduler_is_another_run(tmp_path):
    trained = learner()
    train(trained, out=tmp_path, **made(trained, scheduler="cosine"))
    said = {"none": "training.scheduler was {.*, now None"}
    said["a function"] = "training.scheduler.class was .*CosineAnnealingLR', now .*LambdaLR"
    for scheduler, differs in said.items():
        other = learner()
        with pytest.raises(ValueError, match=f"cannot resume .*{differs}"):
            train(other, out=tmp_path, resume=True, **made(other, scheduler=scheduler))


def test_any_state_goes_through_json_and_back():
    value = {0: {"a": (1, 2.5, None), "t": torch.arange(3)}, "x": [{"deep": torch.ones(2)}, True]}
    tensors = {}
    back = join(json.loads(json.dumps(split(value, "v", tensors))), tensors)
    assert set(tensors) == {"v.0.t", "v.x.0.deep"}
    assert back[0]["a"] == (1, 2.5, None) and back["x"][1] is True
    assert torch.equal(back[0]["t"], torch.arange(3)) and back[0]["t"] is not value[0]["t"]
    assert torch.equal(back["x"][0]["deep"], torch.ones(2))
    with pytest.raises(ValueError, match=r"v.0 is <object .*neither a tensor nor JSON"):
        split([object()], "v", {})


# What is refused


def sgd(trained, parameters_=None):
    return torch.optim.SGD(parameters(trained) if parameters_ is None else parameters_, lr=0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            lambda t: {"optimizer": sgd(t), "outer_lr": 0.1},
            "outer_lr and schedule are of the usual",
        ),
        (lambda t: {"optimizer": sgd(t), "schedule": "cosine"}, "outer_lr and schedule are of the"),
        (
            lambda t: {"optimizer": torch.optim.LBFGS(parameters(t))},
            "optimizer must step without arguments, and LBFGS needs 'closure'",
        ),
        (
            lambda t: {"optimizer": sgd(t, parameters(t)[1:])},
            "optimizer must have every meta-parameter, and '0.weight' is missing",
        ),
        (
            lambda t: {"optimizer": sgd(t, [*parameters(t), nn.Parameter(torch.ones(7, 2))])},
            r"optimizer has a parameter of shape \[7, 2\] that is none of the learner's",
        ),
        (
            lambda t: {"optimizer": sgd(learner())},
            r"optimizer has a parameter of shape \[8, 6\] that is none of the learner's",
        ),
        (
            lambda t: {"scheduler": SCHEDULERS["cosine"](sgd(t))},
            "scheduler needs optimizer=, the one that it was made for",
        ),
        (
            lambda t: {"optimizer": sgd(t), "scheduler": SCHEDULERS["cosine"](sgd(t))},
            "scheduler must be one of this optimizer, and is another's",
        ),
        (
            lambda t: {
                "optimizer": (own := sgd(t)),
                "scheduler": lr_scheduler.ReduceLROnPlateau(own),
            },
            "scheduler must step without arguments, and ReduceLROnPlateau needs 'metrics'",
        ),
        (
            lambda t: {
                "optimizer": (own := sgd(t)),
                "scheduler": lr_scheduler.OneCycleLR(own, 0.1, total_steps=STEPS - 1),
            },
            "scheduler ends after total_steps=5, before steps=6",
        ),
        (
            lambda t: {"optimizer": torch.optim.SGD},
            r"optimizer must be one that is made, such as torch.optim.SGD\(learner.parameters\(\)",
        ),
        (lambda t: {"optimizer": "sgd"}, "optimizer must be one that is made, .* got 'sgd'"),
        (
            lambda t: {"optimizer": sgd(t), "scheduler": lr_scheduler.CosineAnnealingLR},
            "scheduler must be one that is made, such as CosineAnnealingLR",
        ),
    ],
)
def test_what_cannot_train_the_learner_is_refused_before_anything_happens(tmp_path, given, said):
    trained, whole = learner(), learner()
    with pytest.raises((TypeError, ValueError), match=said):
        train(trained, **{"outer_lr": None, "out": tmp_path / "new", **given(trained)})
    for p, q in zip(parameters(trained), parameters(whole), strict=True):
        assert torch.equal(p, q)
    assert not (tmp_path / "new").exists()


# The best state


def scored(*values):
    """A metric with these values, whatever the answers."""
    left = iter(values)
    return lambda outputs, targets: next(left)


def best_in_the_middle(trained, **changes):
    """The states after each step, of which that after four is the best, and the history."""
    after, task_losses = [], trained.task_losses

    def remember(batch, progress=1.0):
        after.append({n: t.detach().clone() for n, t in state_of(trained).items()})
        return task_losses(batch, progress)

    trained.task_losses = remember
    # one task is tried, then each validation has two
    options = {"metric": scored(0, 0.2, 0.2, 0.9, 0.9, 0.5, 0.5), "validation": sampler(1)}
    options |= {"validate_every": 2, "validation_tasks": 2}
    return after, train(trained, **options, **changes)


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[n], other[n]) for n in state)


def pruned(seed=0):
    trained = learner(seed)
    weight = trained.model[0].weight
    trained.set_masks({"0.weight": torch.arange(weight.numel()).view_as(weight) % 3 > 0})
    return trained


@pytest.mark.parametrize("make", [learner, pruned])
def test_the_learner_is_left_at_its_best_validation(make):
    trained = make()
    after, history = best_in_the_middle(trained)
    assert history.best()["step"] == 4 and len(after) == 6
    assert same(state_of(trained), after[4]) and not same(after[4], after[5])
    assert any(n.startswith("mask.") for n in after[4]) == (make is pruned)
    rates = [n for n in after[4] if n.startswith("meta.rates.")]
    assert rates and not any(torch.equal(after[0][n], after[4][n]) for n in rates)


@pytest.mark.parametrize("make", [learner, pruned])
def test_the_best_comes_back_from_its_file_and_a_resumed_run_goes_on_from_the_last(tmp_path, make):
    whole, stopped, resumed = make(), make(), make()
    after, history = best_in_the_middle(whole, out=tmp_path / "whole")
    task_losses, calls = stopped.task_losses, iter(range(9))

    def stop(batch, progress=1.0):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return task_losses(batch, progress)

    stopped.task_losses = stop
    options = {"out": tmp_path / "cut", "save_every": 1}
    with pytest.raises(KeyboardInterrupt):
        best_in_the_middle(stopped, **options)
    options |= {"resume": True, "metric": scored(0, 0.5, 0.5)}
    options |= {"validation": sampler(1), "validate_every": 2, "validation_tasks": 2}
    assert train(resumed, **options) == history
    assert same(state_of(resumed), after[4])
    a, b = (contents(tmp_path / run / "last.safetensors") for run in ("whole", "cut"))
    assert a == b and a[1]["step"] == 6
    again = make()  # a finished run, too
    train(again, **options | {"metric": scored(0)})
    assert same(state_of(again), after[4])


def test_the_last_state_is_left_if_asked_for(tmp_path):
    trained, plain = learner(), learner()
    after, _ = best_in_the_middle(trained, restore_best=False, out=tmp_path)
    train(plain)
    assert same(state_of(trained), state_of(plain)) and not same(state_of(trained), after[4])
    tensors, state = checkpoint.read(tmp_path / "best.safetensors")
    assert state["step"] == 4
    assert same({n: tensors[n] for n in after[4]}, after[4])


def test_without_validation_the_last_state_is_left():
    found, expected = learner(), learner()
    train(found)
    train(expected, restore_best=False)
    assert same(state_of(found), state_of(expected))
