"""Relational distillation: identity T11, against a second implementation with loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut.distillation.losses import rkd_loss

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


@pytest.mark.parametrize(
    ("dtype", "factors"),
    [(torch.float32, (1e-37, 1e-22, 1e12, 1e20, 5e37)), (torch.float64, (1e-300, 1e-170, 1e160))],
)
def test_T11_features_of_any_size_have_their_geometry_and_its_derivative(dtype, factors):
    student, teacher = drawn(0, 5, 3).to(dtype), drawn(1, 5, 4).to(dtype)

    def gradient(features):
        leaf = features.clone().requires_grad_()
        loss = rkd_loss(leaf, teacher)
        return loss.item(), torch.autograd.grad(loss, leaf)[0]

    plain, slope = gradient(student)
    for factor in factors:
        loss, found = gradient(student * factor)
        assert loss == pytest.approx(plain, rel=1e-5), factor
        torch.testing.assert_close(found * factor, slope, rtol=1e-4, atol=1e-4)
        assert rkd_loss(student, teacher * factor).item() == pytest.approx(plain, rel=1e-5)


def test_T11_nothing_pulls_coinciding_examples_apart_at_any_size():
    teacher, units = drawn(1, 3, 2), []
    for factor in (1.0, 1000.0):  # what is of the size of the features drops out
        leaf = (factor * drawn(0, 2, 3)[[0, 0, 1]]).requires_grad_()
        units.append(factor * torch.autograd.grad(rkd_loss(leaf, teacher), leaf)[0])
    assert units[0].any()
    torch.testing.assert_close(*units, rtol=1e-10, atol=1e-12)


def test_T11_differences_of_the_largest_numbers_are_finite():
    ends = torch.tensor([[3e38, 0.0], [-3e38, 0.0], [0.0, 3e38]])
    assert rkd_loss(ends, ends / 3e38).item() < 1e-9


def test_T11_far_from_the_origin_nothing_is_rounded_away():
    near = torch.tensor([[0.0, 90.0], [37.0, 11.0], [5.0, 81.0]])
    far = 1024 * near + 15 * 2.0**30  # as near to one another as numbers of this size can be
    assert rkd_loss(far, near).item() == 0


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
    with pytest.raises(ValueError, match=r"F and G >= 1, .* got shapes \[2, 4\] and \[2, 0\]"):
        rkd_loss(two, two[:, :0])
    with pytest.raises(ValueError, match=r"got shapes \[2\]"):
        rkd_loss(two[:, 0], two)
    with pytest.raises(ValueError, match=r"angle_weight must be finite and >= 0, got -1"):
        rkd_loss(two, two, angle_weight=-1)
