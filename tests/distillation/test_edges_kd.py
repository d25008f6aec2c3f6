"""Distillation where classes are excluded and numbers are none."""

import math

import pytest
import torch
import torch.nn.functional as F

from metalearn_tut.distillation.losses import kd_loss, rkd_loss

INF, NAN = float("inf"), float("nan")


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def without(rows, classes):
    """The same logits with these classes not there at all."""
    keep = [c for c in range(rows.shape[1]) if c not in classes]
    return rows.detach()[:, keep].requires_grad_()


def test_a_class_that_both_exclude_is_as_if_it_were_not_there():
    student, teacher = logits([1, 2, -INF]), logits([2, 1, -INF])
    loss = kd_loss(student, teacher, 1.0)
    assert loss.item() == pytest.approx(math.tanh(0.5), rel=1e-12)  # 0.4621: 2 sigmoid(1) - 1
    narrow = without(student, [2]), without(teacher, [2])
    expected = torch.autograd.grad(kd_loss(*narrow, 1.0), narrow)
    for found, right in zip(torch.autograd.grad(loss, [student, teacher]), expected, strict=True):
        torch.testing.assert_close(found, F.pad(right, (0, 1)), rtol=1e-12, atol=1e-15)


def test_different_rows_may_exclude_different_classes():
    student, teacher = (
        logits([1, 2, -INF, 0], [-INF, 0, 1, 3]),
        logits([2, 1, -INF, 1], [-INF, 1, 1, 0]),
    )
    singles = [
        kd_loss(without(student[i : i + 1], [gone]), without(teacher[i : i + 1], [gone]), 2.5)
        for i, gone in enumerate((2, 0))
    ]
    loss = kd_loss(student, teacher, 2.5)
    assert loss.item() == pytest.approx(sum(singles).item() / 2, rel=1e-12)


@pytest.mark.parametrize("low", [-INF, -800.0])
@pytest.mark.parametrize("said", [0.3, -INF])
def test_what_the_teacher_excludes_adds_nothing(low, said):
    """Also where its probability is too small for a float, whatever the student says of it."""
    student, teacher = logits([1, 2, said]), logits([2, 1, low])
    loss = kd_loss(student, teacher, 1.0)
    p_s = student.detach().softmax(1)[0]
    p_t = torch.tensor([1.0, math.exp(-1), 0.0], dtype=torch.float64) / (1 + math.exp(-1))
    by_hand = sum(p * math.log(p / q) for p, q in zip(p_t.tolist(), p_s.tolist(), strict=True) if p)
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    (found,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(found[0], p_s - p_t, rtol=1e-12, atol=1e-15)


def test_what_the_student_alone_excludes_costs_infinitely_much():
    student = logits([1, 2, -INF])
    loss = kd_loss(student, logits([2, 1, 0]), 1.0)
    assert loss.item() == INF
    (found,) = torch.autograd.grad(loss, student)  # T (p_s - p_t) / B all the same
    expected = student.detach().softmax(1) - logits([2, 1, 0]).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_it_can_be_differentiated_twice_beside_an_excluded_class():
    mask = torch.tensor([[0.0, 0.0, -INF, 0.0]], dtype=torch.float64)
    start = (logits([1, 2, 0, 0.5]), logits([2, 1, 0, -1]))
    assert torch.autograd.gradgradcheck(lambda s, t: kd_loss(s + mask, t + mask, 2.0), start)


@pytest.mark.parametrize("side", [0, 1])
def test_a_row_without_any_class_is_refused(side):
    pair = [logits([0, 1], [1, 2]), logits([0, 1], [1, 2])]
    pair[side] = logits([0, 1], [-INF, -INF])
    name = ("student_logits", "teacher_logits")[side]
    with pytest.raises(ValueError, match=f"{name} must leave a class, but row 1 is -inf"):
        kd_loss(*pair)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_no_number_is_never_hidden(side, bad):
    """As in every loss of PyTorch NaN comes out, which a loop of training names with its step."""
    pair = [logits([0, 1, 2]), logits([0, 1, 2])]
    pair[side] = logits([0, bad, 1])
    assert kd_loss(*pair).isnan()
    excluded = [logits([0, 1, -INF]), logits([0, 1, -INF])]
    excluded[side] = logits([0, bad, -INF])
    assert kd_loss(*excluded).isnan()


def test_under_vmap_it_is_the_same():
    student, teacher = (torch.randn(4, 3, 5, dtype=torch.float64) for _ in range(2))
    student[..., 2] = teacher[..., 2] = -INF
    found = torch.vmap(kd_loss)(student, teacher)
    expected = torch.stack([kd_loss(s, t) for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("side", [0, 1])
def test_features_that_are_no_numbers_have_no_geometry(side, bad):
    """They must not pass for examples that coincide."""
    pair = [torch.randn(4, 3, dtype=torch.float64) for _ in range(2)]
    pair[side][1, 2] = bad
    assert rkd_loss(*pair).isnan()
    assert rkd_loss(*pair, distance_weight=0.0).isnan()
    assert rkd_loss(*pair, angle_weight=0.0).isnan()
