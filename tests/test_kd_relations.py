"""Relational distillation: identity T11, against a second implementation with loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut.kd import rkd_loss

quick = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 1000)


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def smooth_l1(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def relations(rows):
    """Distances over their mean, and the cosine at i between j and k, for lists of numbers."""
    n = range(len(rows))
    distance = [[math.dist(rows[i], rows[j]) for j in n] for i in n]
    mean = sum(distance[i][j] for i in n for j in n if i != j) / (len(rows) * (len(rows) - 1))

    def cosine(i, j, k):
        if i in (j, k):
            return 0.0
        dot = sum((a - c) * (b - c) for a, b, c in zip(rows[j], rows[k], rows[i], strict=True))
        return dot / distance[i][j] / distance[i][k]

    return (
        [distance[i][j] / mean for i in n for j in n],
        [cosine(i, j, k) for i in n for j in n for k in n],
    )


@quick
@given(seeds, st.integers(2, 5), st.integers(1, 4), st.integers(1, 4))
def test_T11_the_loss_written_out_for_different_widths(seed, rows, width, other):
    student, teacher = drawn(seed, rows, width), 3 * drawn(seed + 1, rows, other)
    pairs = zip(relations(student.tolist()), relations(teacher.tolist()), strict=True)
    by_distance, by_angle = (
        sum(smooth_l1(a - b) for a, b in zip(s, t, strict=True)) / len(s) for s, t in pairs
    )
    found = rkd_loss(student, teacher).item()
    assert found == pytest.approx(25 * by_distance + 50 * by_angle, rel=1e-10)


@quick
@given(seeds)
def test_T11_rotation_translation_and_scaling_of_either_change_nothing(seed):
    student, teacher = drawn(seed, 5, 3), drawn(seed + 1, 5, 4)
    plain = rkd_loss(student, teacher)

    def moved(features):
        turn = torch.linalg.qr(drawn(seed + 2, features.shape[1], features.shape[1]))[0]
        return 0.3 * features @ turn + drawn(seed + 3, features.shape[1])

    torch.testing.assert_close(rkd_loss(moved(student), teacher), plain, rtol=1e-9, atol=0)
    torch.testing.assert_close(rkd_loss(student, moved(teacher)), plain, rtol=1e-9, atol=0)
    assert rkd_loss(moved(teacher), teacher).item() < 1e-20
    assert plain > 1e-3


def test_it_can_be_differentiated_twice_in_both():
    features = drawn(0, 3, 2).requires_grad_(), drawn(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(rkd_loss, features)
    assert torch.autograd.gradgradcheck(rkd_loss, features)


@pytest.mark.parametrize("same", [[0, 0, 0], [0, 0, 1], [0]])
def test_T11_coinciding_features_and_a_batch_of_one_have_finite_derivatives(same):
    student = drawn(0, 2, 3)[same].requires_grad_()
    teacher = drawn(1, len(same), 2)
    loss = rkd_loss(student, teacher)
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), student)
    assert all(torch.isfinite(t).all() for t in (loss, grad, second))
    if len(same) == 1:
        assert loss == 0 and not grad.any()
    if same == [0, 0, 0]:
        assert loss > 0 and not grad.any()
        assert rkd_loss(student, 2 * student) == 0


def test_bad_input_is_refused():
    two, three = torch.zeros(2, 4), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"one B >= 1, got shapes \[2, 4\] and \[3, 4\]"):
        rkd_loss(two, three)
    with pytest.raises(ValueError, match=r"got shapes \[0, 4\]"):
        rkd_loss(two[:0], two[:0])
    with pytest.raises(ValueError, match=r"got shapes \[2\]"):
        rkd_loss(two[:, 0], two)
    with pytest.raises(ValueError, match=r"angle_weight must be finite and >= 0, got -1"):
        rkd_loss(two, two, angle_weight=-1)
