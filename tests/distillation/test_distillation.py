"""Meta distillation: identities T1 to T10, T12 and T13, on tiny networks in float64."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import conv4, difference, images, mlp, seeded, vectors
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metalearn_tut import MAML, Reptile, models
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.evaluation import cost

WAYS = 3


def large():
    return seeded(lambda: nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, WAYS)))


def pair(**options):
    """Teacher and student of two inner steps each, at different rates."""
    teacher = MAML(large(), options.pop("teacher_lr", 0.3), options.pop("teacher_steps", 2))
    student = MAML(mlp(), options.pop("student_lr", 0.2), options.pop("student_steps", 2))
    return MetaDistiller(teacher, student, **options)


def gradients(learner, batch):
    metas = learner.meta_parameters()
    loss = learner.task_losses(batch).losses.mean()
    grads = torch.autograd.grad(loss, list(metas.values()), materialize_grads=True)
    return dict(zip(metas, grads, strict=True))


def trained(learner, steps=3):
    """Meta-parameters after outer steps of Adam, as the training loop takes them."""
    metas = learner.meta_parameters()
    optimizer = torch.optim.Adam(metas.values(), lr=0.01)
    for step in range(steps):
        torch.manual_seed(step)  # of dropout
        optimizer.zero_grad()
        learner.task_losses(vectors(seed=step)).losses.mean().backward()
        optimizer.step()
    return {n: p.detach().clone() for n, p in metas.items()}


def part(name, tensors):
    return {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], expected[n]) for n in found
    )


def student_end(distiller, task=None, **steps):
    task = vectors()[0] if task is None else task
    return distiller.adapt(task.support_x, task.support_y, **steps).params


def dropped(width):
    body = (nn.Linear(5, width), nn.Dropout(0.5), nn.Tanh(), nn.Linear(width, WAYS))
    return seeded(lambda: nn.Sequential(*body))


# The two learners that it is made of


@pytest.mark.parametrize("make", [(large, mlp), (partial(dropped, 9), partial(dropped, 4))])
@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_T1_T2_weight_0_is_bitwise_two_plain_mamls(make, order):
    teacher, student = (MAML(m(), lr, 2) for m, lr in zip(make, (0.3, 0.2), strict=True))
    alone = [trained(MAML(copy.deepcopy(m.model), m.inner_lr, 2)) for m in (teacher, student)]
    start = {n: p.detach().clone() for n, p in student.meta_parameters().items()}
    found = trained(MetaDistiller(teacher, student, kd_weight=0, order=order))
    assert same(part("teacher", found), alone[0])
    assert same(part("student", found), alone[1])
    assert not same(alone[1], start)


@pytest.mark.parametrize(
    ("make", "batch", "settings"),
    [
        (mlp, vectors, {"rate_mode": "per_layer_and_step"}),
        (mlp, vectors, {"rate_mode": "per_weight", "recompute": True}),
        (
            mlp,
            vectors,
            {"masks": {"0.weight": torch.eye(8, 5)}, "groups": [["2.bias"], ["0.weight"]]},
        ),
        (partial(conv4, "support"), images, {"zero_head": True}),
    ],
)
def test_T1_holds_for_learned_rates_masks_groups_and_zero_heads(make, batch, settings):
    student = MAML(make(), 0.2, 2, **settings)
    with torch.no_grad():
        for k, rate in enumerate(student.learned_rates.values()):
            rate.mul_(torch.linspace(0.5, 1 + k, rate.numel()).view(rate.shape))
    teacher = MAML(make(), 0.3, 1)
    found = part("student", gradients(MetaDistiller(teacher, student, kd_weight=0), batch()))
    expected = gradients(student, batch())
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"kd_weight": 9.0, "temperature": 0.7}, {"outer_kd_weight": 2.0}]
)
def test_T2_the_teacher_is_bitwise_plain_maml_whatever_it_teaches(first_order, options):
    def teacher():
        return MAML(large(), 0.3, 2, first_order=first_order)

    distiller = MetaDistiller(teacher(), MAML(mlp(), 0.2, 2), **options)
    found = trained(distiller)
    assert same(part("teacher", found), trained(teacher()))
    assert not same(part("student", found), trained(MAML(mlp(), 0.2, 2)))


def test_T3_a_detached_teacher_has_its_own_gradient_and_no_other():
    found = part("teacher", gradients(pair(), vectors()))
    assert same(found, gradients(MAML(large(), 0.3, 2), vectors()))


@pytest.mark.parametrize("order", ["sequential", "interleaved", "interleaved_after"])
def test_T3_through_the_teacher_the_gradient_is_that_of_both_losses(order):
    """By a finite difference; the student's loss has a part in the teacher's gradient."""
    distiller = pair(through_teacher=True, outer_kd_weight=0.5, order=order)
    found, psi = gradients(distiller, vectors()), distiller.teacher.meta_parameters()

    def loss(moved):
        with torch.no_grad():
            kept = {n: p.clone() for n, p in psi.items()}
            for n, p in psi.items():
                p.copy_(moved[n])
        value = distiller.task_losses(vectors()).losses.mean().detach()
        with torch.no_grad():
            for n, p in psi.items():
                p.copy_(kept[n])
        return value

    expected, direction = difference(loss, {n: p.detach().clone() for n, p in psi.items()})
    slope = sum((found[f"teacher.{n}"] * d).sum().item() for n, d in direction.items())
    assert slope == pytest.approx(expected, rel=1e-6)
    alone = gradients(MAML(large(), 0.3, 2), vectors())
    assert max((found[f"teacher.{n}"] - g).abs().max() for n, g in alone.items()) > 1e-4


def test_the_students_gradient_by_finite_differences():
    distiller = pair(kd_weight=0.7, outer_kd_weight=0.5, order="interleaved")
    found, theta = gradients(distiller, vectors()), distiller.student.meta_parameters()
    generator = torch.Generator().manual_seed(0)
    direction = {
        n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in theta.items()
    }

    def loss(by):
        with torch.no_grad():
            for n, p in theta.items():
                p.add_(by * direction[n])
        return distiller.task_losses(vectors()).losses.mean().item()

    step = 1e-5
    high = loss(step)
    low = loss(-2 * step)
    slope = sum((found[f"student.{n}"] * d).sum().item() for n, d in direction.items())
    assert slope == pytest.approx((high - low) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_outer_weight_adds_distillation_on_the_query_set(fixed):
    batch, task = vectors(tasks=1), vectors(tasks=1)[0]
    plain = pair(fixed_teacher=fixed)
    student, teacher = (
        learner.adapt(task.support_x, task.support_y)(task.query_x)
        for learner in (plain, plain.teacher)
    )
    expected = plain.task_losses(batch).losses + 0.5 * kd_loss(student, teacher)
    found = pair(fixed_teacher=fixed, outer_kd_weight=0.5).task_losses(batch).losses
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)


def test_the_inner_loop_written_out():
    """Teacher first, then the student on both losses, its labels those of the adapted teacher."""
    distiller, task = pair(temperature=3.0, kd_weight=0.5, ce_weight=0.8), vectors()[0]
    x, y = task.support_x, task.support_y
    teacher, student = (
        copy.deepcopy(distiller.teacher.model),
        copy.deepcopy(distiller.student.model),
    )

    def descend(model, lr, loss):
        for _ in range(2):
            params = list(model.parameters())
            grads = torch.autograd.grad(loss(model(x)), params)
            with torch.no_grad():
                for p, g in zip(params, grads, strict=True):
                    p -= lr * g

    descend(teacher, 0.3, lambda z: F.cross_entropy(z, y))
    soft = (teacher(x) / 3).softmax(1).detach()

    def both(z):
        p = (z / 3).log_softmax(1)
        kd = 9 * (soft * (soft.log() - p)).sum() / len(x)
        return 0.8 * F.cross_entropy(z, y) + 0.5 * kd

    descend(student, 0.2, both)
    for name, p in student_end(distiller, task).items():
        torch.testing.assert_close(p, student.get_parameter(name).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("order", "at"),
    [("sequential", [2, 2, 2]), ("interleaved", [0, 1, 2]), ("interleaved_after", [1, 2, 2])],
)
def test_which_teacher_guides_which_step(order, at):
    """By a recording distillation loss, against the teacher adapted that many steps."""
    heard = []

    def recording(student, teacher):
        heard.append(teacher)
        return kd_loss(student, teacher)

    distiller = pair(order=order, kd=recording, student_steps=3)
    task = vectors()[0]
    student_end(distiller, task)
    for said, steps in zip(heard, at, strict=True):
        adapted = distiller.teacher.adapt(task.support_x, task.support_y, steps=steps)
        torch.testing.assert_close(said, adapted(task.support_x), rtol=1e-12, atol=0)


# Limits


def test_T5_a_teacher_that_is_certain_and_right_doubles_the_step():
    def certain(student, teacher):
        return kd_loss(student, 1e4 * F.one_hot(vectors()[0].support_y, WAYS).double(), 1.0)

    found = student_end(pair(kd=certain))
    doubled = MAML(mlp(), 0.4, 2)
    expected = student_end(doubled)
    for name, p in found.items():
        torch.testing.assert_close(p, expected[name], rtol=1e-11, atol=1e-14)


def test_T6_a_teacher_without_an_opinion_pulls_the_logits_together():
    flat = MAML(models.Conv4(1, WAYS, width=4, norm="none", image_size=16).double(), 0.0, 0)
    student, task = MAML(conv4("none"), 0.1, 3), images()[0]
    distiller = MetaDistiller(flat, student, ce_weight=0)  # the teacher's head is zero
    before = student.adapt(task.support_x, task.support_y, steps=0)(task.support_x)
    after = distiller.adapt(task.support_x, task.support_y)(task.support_x)
    assert after.softmax(1).max() < before.softmax(1).max()
    assert kd_loss(after, torch.zeros_like(after)) < kd_loss(before, torch.zeros_like(before))


@pytest.mark.parametrize("still", [{"student_steps": 0}, {"student_lr": 0.0}])
def test_T7_T8_a_student_that_does_not_adapt_hears_nothing(still):
    task, distiller = vectors(tasks=1), pair(kd_weight=50.0, **still)
    logits = distiller.student.model(task.query_x[0])
    alone = (
        F.cross_entropy(logits, task.query_y[0]) + MAML(large(), 0.3, 2).task_losses(task).losses
    )
    torch.testing.assert_close(distiller.task_losses(task).losses, alone, rtol=1e-12, atol=0)


def test_T7_T8_a_teacher_that_does_not_adapt_guides_unadapted():
    ends = [
        student_end(pair(teacher_steps=0)),
        student_end(pair(teacher_lr=0.0)),
        student_end(pair(fixed_teacher=True, fixed_teacher_inner_adapt=False)),
        student_end(pair(), teacher_steps=0),
    ]
    assert all(same(end, ends[0]) for end in ends)
    assert not same(student_end(pair()), ends[0])
    assert same(student_end(pair(fixed_teacher=True)), student_end(pair()))


def test_T9_an_equal_unadapted_teacher_changes_nothing_in_the_first_step():
    distiller = MetaDistiller(MAML(mlp(), 0.0, 0), MAML(mlp(), 0.2, 1), kd_weight=5.0)
    expected = student_end(MAML(mlp(), 0.2, 1))
    for name, p in student_end(distiller).items():
        torch.testing.assert_close(p, expected[name], rtol=1e-12, atol=1e-14)
    assert not same(student_end(distiller, steps=2), student_end(MAML(mlp(), 0.2, 1), steps=2))


def test_T10_names_of_classes_do_not_matter():
    order = torch.tensor([2, 0, 1])  # class c is now called order[c]
    plain, renamed = pair(), pair()
    with torch.no_grad():
        for learner in (renamed.teacher, renamed.student):
            for p in learner.model[-1].parameters():
                p[order] = p.clone()
    task = vectors()[0]
    outputs = plain.adapt(task.support_x, task.support_y)(task.query_x)
    other = renamed.adapt(task.support_x, order[task.support_y])(task.query_x)
    torch.testing.assert_close(other[:, order], outputs, rtol=1e-12, atol=1e-14)


def test_T13_one_step_of_a_linear_student_in_closed_form():
    """``theta' = theta - lr (X'(X theta - y) + w c X'(X theta - t)) / B`` and its derivative."""
    rate, weight, c = 0.3, 0.7, 3.0

    def half(a, b):
        return (a - b).square().mean() / 2

    make = partial(nn.Linear, 4, 1, bias=False, dtype=torch.float64)
    teacher, student = MAML(make(), 0.1, 1, loss=half), MAML(make(), rate, 1, loss=half)
    options = {"kd": lambda s, t: c * half(s, t), "kd_weight": weight, "fixed_teacher": True}
    distiller = MetaDistiller(teacher, student, **options)
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    batch = vectors(tasks=1)
    batch = type(batch)(draw(1, 6, 4), draw(1, 6, 1), draw(1, 5, 4), draw(1, 5, 1))
    X, y, Q, q = (t[0] for t in (batch.support_x, batch.support_y, batch.query_x, batch.query_y))
    theta, psi = (m.model.weight.detach().T for m in (student, teacher))
    t = X @ (psi - 0.1 * X.T @ (X @ psi - y) / 6)
    H = X.T @ X / 6
    end = theta - rate * (X.T @ (X @ theta - y) + weight * c * X.T @ (X @ theta - t)) / 6
    (found,) = gradients(distiller, batch).values()
    factor = torch.eye(4, dtype=torch.float64) - rate * (H + weight * c * H)
    expected = factor @ (Q.T @ (Q @ end - q) / 5)
    torch.testing.assert_close(found.T, expected, rtol=1e-11, atol=0)
    task = batch[0]
    torch.testing.assert_close(student_end(distiller, task)["weight"].T, end, rtol=1e-12, atol=0)


# Features


def test_relational_guidance_moves_the_network_behind_a_zero_head():
    """One step from a zero head may skip the network for labels, not for features."""
    task = images(shots=2)[0]
    students = [MAML(conv4(), 0.4, 1, zero_head=True) for _ in range(2)]
    ends = [
        student_end(MetaDistiller(MAML(conv4(), 0.1, 1), s, rkd_weight=w), task)
        for s, w in zip(students, (0.0, 1.0), strict=True)
    ]
    name = "blocks.0.conv.weight"
    assert torch.equal(ends[0][name], students[0].model.get_parameter(name))
    assert (ends[1][name] - ends[0][name]).abs().max() > 1e-3


def test_a_task_of_one_example_has_finite_gradients():
    batch = images(tasks=1)
    one = type(batch)(
        batch.support_x[:, :1], batch.support_y[:, :1], batch.query_x[:, :1], batch.query_y[:, :1]
    )
    distiller = MetaDistiller(
        MAML(conv4("group"), 0.1, 1), MAML(conv4("group"), 0.1, 1), rkd_weight=1.0
    )
    found = gradients(distiller, one)
    assert all(torch.isfinite(g).all() for g in found.values())
    without = MetaDistiller(distiller.teacher, distiller.student)
    for name, g in gradients(without, one).items():
        torch.testing.assert_close(found[name], g, rtol=1e-10, atol=1e-14)


# What is deployed, and what it costs


def test_T12_the_student_alone_is_deployed_saved_and_counted(tmp_path):
    distiller = MetaDistiller(MAML(wide(), 0.1, 1), MAML(conv4(), 0.1, 2))
    task = images()[0]
    network = distiller.deploy(task)
    plain = MAML(conv4(), 0.1, 2).adapt(task.support_x, task.support_y).deploy()
    assert {n: t.shape for n, t in network.state_dict().items()} == {
        n: t.shape for n, t in plain.state_dict().items()
    }
    assert cost.parameters(network) == cost.parameters(conv4())
    assert cost.macs(network, (1, 16, 16)) == cost.macs(conv4(), (1, 16, 16))
    save_file(network.state_dict(), tmp_path / "student.safetensors")
    plain.load_state_dict(load_file(tmp_path / "student.safetensors"))
    assert torch.equal(plain(task.query_x), network(task.query_x))


def wide():
    return seeded(lambda: models.Conv4(1, WAYS, width=6, image_size=16))


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_the_cost_of_adaptation_is_what_is_computed(order):
    """Against PyTorch's counter, which knows that a first layer sends no gradient back."""
    distiller, task = pair(order=order, student_steps=3), vectors()[0]
    with FlopCounterMode(display=False) as counter:
        student_end(distiller, task)
    found = distiller.adaptation_macs(6, lambda network: cost.macs(network, (5,)))
    spared = {"teacher": 2 * 6 * 5 * 16, "student": 3 * 6 * 5 * 8}
    assert counter.get_total_flops() == 2 * (sum(found.values()) - sum(spared.values()))
    unguided = pair(kd_weight=0).adaptation_macs(6, lambda network: 1)
    assert unguided == {"teacher": 0, "student": 3 * 2 * 6}


def test_a_fixed_teacher_is_not_trained():
    distiller = pair(fixed_teacher=True)
    before = {n: p.detach().clone() for n, p in distiller.teacher.meta_parameters().items()}
    found = trained(distiller)
    assert all(n.startswith("student.") for n in found)
    assert same(before, {n: p.detach() for n, p in distiller.teacher.meta_parameters().items()})


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"kd_weight": -1.0}, "kd_weight must be finite and >= 0, got -1.0"),
        ({"outer_kd_weight": float("nan")}, "outer_kd_weight must be finite and >= 0, got nan"),
        ({"order": "parallel"}, "order must be one of 'sequential', .*, got 'parallel'"),
        ({"rkd_weight": 1.0}, "rkd_weight > 0 needs networks with embed"),
        ({"fixed_teacher": True, "through_teacher": True}, "trains the teacher"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        pair(**options)


def test_pairs_that_cannot_be():
    def refused(message, teacher, student, error=ValueError, **settings):
        with pytest.raises(error, match=message):
            MetaDistiller(MAML(teacher, **settings), MAML(student))

    def net(ways=WAYS, **options):
        return models.Conv4(1, ways, width=4, **{"image_size": 16, **options})

    refused(r"the same number of classes, got 5 \(teacher\) and 3 \(student\)", net(5), net())
    refused(r"the same image_size, got 28 \(teacher\) and 16", net(image_size=28), net())
    refused("the same norm, got 'group'", net(norm="group"), net())
    refused("the same dtype, got torch.float64", net().double(), net())
    refused(
        "the teacher must have engine='functional', got 'higher'", net(), net(), engine="higher"
    )
    with pytest.raises(TypeError, match="student must be a MAML learner, got Reptile"):
        MetaDistiller(MAML(net()), Reptile(net()))


def test_labels_and_steps_that_cannot_be():
    distiller, task = pair(), vectors()[0]
    with pytest.raises(ValueError, match=r"support_y must hold labels in 0\.\.2, got 5"):
        distiller.adapt(task.support_x, task.support_y + 3)
    with pytest.raises(ValueError, match="teacher_steps must be an integer >= 0, got -1"):
        distiller.adapt(task.support_x, task.support_y, teacher_steps=-1)
