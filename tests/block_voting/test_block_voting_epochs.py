"""Training on images: SGD and its objectives written out, augmentation, and exact resume."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from gate_cases import gated, images, labelled, lively, resnet, same_state
from torch import nn

from metalearn_tut.block_voting import (
    Recipe,
    crop_and_flip,
    cross_entropy,
    distillation,
    image_accuracy,
    target_rate,
    train_epochs,
)
from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.models import Conv4


def points(rows=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 5, generator=generator).double(), torch.arange(rows) % 3


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(5, 3).double()


def train(network, data, recipe, *args, **settings):
    return train_epochs(network, data, recipe, *args, progress=False, **settings)


# A step


def test_training_is_sgd_with_momentum_written_out():
    x, y = points()
    recipe = Recipe(4, lr=0.3, schedule="steps", batch=100, momentum=0.8, weight_decay=0.01)
    network = linear()
    params = [p.detach().clone().requires_grad_() for p in network.parameters()]
    momenta, losses = [torch.zeros_like(p) for p in params], []
    for rate in (0.3, 0.3, 0.03, 0.003):
        loss = F.cross_entropy(x @ params[0].T + params[1], y)
        grads = torch.autograd.grad(loss, params)
        momenta = [0.8 * m + g + 0.01 * p for m, g, p in zip(momenta, grads, params, strict=True)]
        params = [
            (p - rate * m).detach().requires_grad_() for p, m in zip(params, momenta, strict=True)
        ]
        losses.append(loss.item())
    history = train(network, (x, y), recipe)
    torch.testing.assert_close(list(network.parameters()), params, check_dtype=True)
    assert history["loss"] == pytest.approx(losses, rel=1e-12)


def test_the_cosine_ends_low_and_constant_does_not_move():
    rates = [Recipe(4, lr=2.0).rate(epoch) for epoch in range(4)]
    assert rates == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])
    assert Recipe(4, schedule="constant").rate(3) == 0.1


def test_every_image_is_seen_once_an_epoch_in_steps_of_equal_size():
    x, y, seen = torch.arange(10.0).view(10, 1), torch.zeros(10, dtype=torch.int64), []

    def objective(network, x, y):
        seen.append(x.flatten().tolist())
        return cross_entropy(network, x, y)

    train(nn.Linear(1, 2), (x, y), Recipe(2, batch=4), objective)
    assert [len(step) for step in seen] == [4, 3, 3] * 2
    first, second = ([i for step in epoch for i in step] for epoch in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == x.flatten().tolist() and first != second


def test_the_history_is_a_mean_over_images():
    x, y = points()
    network = linear()
    recipe = Recipe(1, lr=1e-12, batch=4, weight_decay=0)
    history = train(network, (x, y), recipe)
    logits = network(x)
    assert history["loss"][0] == pytest.approx(F.cross_entropy(logits, y).item())
    assert history["accuracy"][0] == pytest.approx((logits.argmax(1) == y).double().mean().item())
    assert history["accuracy"][0] == pytest.approx(image_accuracy(network, (x, y)))
    assert not network.training


def test_accuracy_is_that_of_evaluation_mode_and_the_mode_stays():
    network, (x, y) = lively(resnet()), labelled()
    logits = network(x.double() / 255)
    network.train()
    assert image_accuracy(network, (x, logits.argmax(1))) == 1.0 and network.training
    assert image_accuracy(network, (x, logits.argmin(1))) == 0.0
    assert image_accuracy(network, (x, y)) == (logits.argmax(1) == y).double().mean().item()


def test_the_seed_decides_the_order():
    def trained(**settings):
        network = linear()
        train(network, points(), Recipe(1, batch=2), **settings)
        return network

    assert same_state(trained(seed=1), trained(seed=1))
    assert not same_state(trained(seed=1), trained(seed=2))
    assert not same_state(trained(title="a"), trained(title="b"))


def test_training_leaves_the_global_generator_alone():
    network = linear()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(network, points(), Recipe(1))
    assert torch.equal(torch.rand(1), expected)


# Objectives


def test_distillation_adds_the_weighted_loss_from_a_teacher_that_never_changes():
    student, teacher = lively(resnet()).train(), lively(resnet(), seed=1).train()
    x, y, before = images(6), torch.arange(6) % 4, copy.deepcopy(teacher.state_dict())
    loss, logits = distillation(teacher, temperature=2.5, weight=0.7)(student, x, y)
    loss.backward()
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    expected = F.cross_entropy(logits, y) + 0.7 * kd_loss(logits, teacher(x), 2.5)
    torch.testing.assert_close(loss, expected)
    assert distillation(teacher, weight=0) is cross_entropy


def test_the_target_rate_pulls_the_mean_mark_of_each_gated_block():
    model, x, y = lively(gated()), images(6), torch.arange(6) % 4
    loss, logits = target_rate(0.3, weight=2.0)(model, x, y)
    rates = model.marks(x)[:, 1:].mean(0)  # the first block has no gate
    expected = F.cross_entropy(logits, y) + 2.0 * ((0.3 - rates) ** 2).sum() / 8
    torch.testing.assert_close(loss, expected)


# Augmentation


def test_crops_and_flips_are_among_those_that_can_be():
    x = images(40, side=4)
    padded = F.pad(x, (2, 2, 2, 2))
    found = crop_and_flip(x, torch.Generator().manual_seed(0), padding=2)
    shifts, mirrored = set(), 0
    for i in range(40):
        for down, right in itertools.product(range(5), range(5)):
            crop = padded[i, :, down : down + 4, right : right + 4]
            if torch.equal(crop, found[i]) or torch.equal(crop.flip(2), found[i]):
                shifts.add((down, right))
                mirrored += torch.equal(crop.flip(2), found[i])
                break
        else:
            raise AssertionError(f"image {i} is no crop")
    assert len(shifts) > 15 and 10 < mirrored < 30
    assert torch.equal(crop_and_flip(x, torch.Generator(), padding=0, flip=False), x)


def test_training_augments_what_it_learns_from_and_bytes_become_floats():
    (x, y), seen = labelled(), []

    def halved(x, generator):
        return x / 2

    def objective(network, x, y):
        seen.append(x)
        return cross_entropy(network, x, y)

    train(resnet(), (x.numpy(), y.numpy()), Recipe(1, augment=halved), objective)
    assert seen[0].dtype == torch.float32
    assert seen[0].max().item() == pytest.approx(x.max().item() / 255 / 2)
    assert Recipe(1, augment=halved).settings()["augment"]["function"].endswith("halved")


# Resume


class Stopped(BaseException):
    pass


class Until:
    """Cross-entropy, until there is nothing left."""

    def __init__(self, left):
        self.left = left

    def settings(self):
        return "cross-entropy"

    def __call__(self, network, x, y):
        if next(self.left, None) is None:
            raise Stopped
        return cross_entropy(network, x, y)


@pytest.mark.parametrize(
    ("masking", "steps"), [("soft", (1, 4)), ("gumbel", (3,))], ids=["soft", "gumbel"]
)
def test_a_stopped_training_goes_on_bitwise_as_if_it_had_not(tmp_path, masking, steps):
    data, recipe = labelled(8), Recipe(3, lr=0.05, batch=4, augment=crop_and_flip)
    model = gated(masking=masking, gate="pooled")
    whole = copy.deepcopy(model)
    history = train(whole, data, recipe, file=tmp_path / "whole.safetensors")
    assert len(set(history["loss"])) == 3
    for n in steps:  # two steps an epoch: stopped in the first, at the end of one, in one
        file, left = tmp_path / f"{n}.safetensors", iter(range(n))

        with pytest.raises(Stopped):
            train(copy.deepcopy(model), data, recipe, Until(left), file=file)
        torch.manual_seed(n)  # a new process would be in another state
        resumed = copy.deepcopy(model)
        assert train(resumed, data, recipe, Until(itertools.count()), file=file) == history
        assert same_state(resumed, whole)


def test_a_finished_training_is_read_and_not_repeated(tmp_path):
    file, network = tmp_path / "run.safetensors", linear()
    history = train(network, points(), Recipe(2), file=file)
    again = linear(seed=1)
    assert train(again, points(), Recipe(2), file=file) == history and same_state(again, network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": Recipe(3)}, "recipe.epochs was 2, now 3"),
        ({"recipe": Recipe(2, augment=crop_and_flip)}, r"augment was None, now '.*crop_and_flip'"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"data": points(11)}, r"data\.images was '.*', now"),
        ({"data": (points()[0], points()[1].flip(0) * 0)}, r"data\.labels was '.*', now '"),
        ({"note": {"a": 2}}, "note.a was 1, now 2"),
        (
            {"network": nn.Linear(5, 4)},
            r"dtype was 'torch\.float64', now 'torch\.float32'",
        ),
    ],
)
def test_the_file_of_another_run_is_refused(tmp_path, changes, message):
    run = {"network": linear(), "data": points(), "recipe": Recipe(2), "note": {"a": 1}}
    train(**run, file=tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match=message):
        train(**{**run, **changes}, file=tmp_path / "run.safetensors")


def test_gates_of_another_network_are_refused(tmp_path):
    file = tmp_path / "run.safetensors"
    train(gated(gate="alone"), labelled(), Recipe(1), file=file)
    for other in (gated(gate="soft1"), gated(32, gate="alone")):
        with pytest.raises(ValueError, match=r"cannot resume .*: network\..* was"):
            train(other, labelled(), Recipe(1), file=file)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs must be an integer >= 0, got -1"),
        ({"batch": 0}, "batch must be an integer >= 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": math.nan}, "lr must be positive, got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"schedule": "linear"}, "schedule must be one of 'cosine', .* got 'linear'"),
    ],
)
def test_recipes_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 1, **settings})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(0, 3, 8, 8), []), "at least one, got 0 images and 0 labels"),
        ((torch.zeros(2, 3, 8, 8), [0]), "as many labels, .* got 2 images and 1 labels"),
        ((torch.zeros(2, 3, 8, 8), [0, 4]), r"labels must be in 0..3 .*, got 0..4"),
        ((torch.zeros(2, 3, 8, 8), [-1, 1]), r"labels must be in 0..3 .*, got -1..1"),
        ((torch.zeros(2, 1, 8, 8), [0, 1]), r"x must be images \[B, 3, H, W\]"),
    ],
)
def test_data_that_cannot_be(data, message):
    for call in (lambda: train(resnet(), data, Recipe(1)), lambda: image_accuracy(resnet(), data)):
        with pytest.raises(ValueError, match=message):
            call()


def test_objectives_that_cannot_be():
    with pytest.raises(ValueError, match="weight of distillation must be at least 0, got -1"):
        distillation(linear(), weight=-1)
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\], got 1.5"):
        target_rate(1.5)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    file = tmp_path / "run.safetensors"
    with pytest.raises(FloatingPointError, match="round 7: the loss is not finite in epoch 1"):
        x, y = points()
        train(linear(), (x * math.inf, y), Recipe(2), title="round 7", file=file)
    assert not file.exists()


def test_any_network_can_be_trained():
    network = Conv4(3, 4, width=4, image_size=16)
    train(network, labelled(side=16), Recipe(2, batch=4))
    assert network.head.weight.any()
