"""Distillation: identity B6, by closed forms and finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut.distillation.losses import kd_loss

temperatures = st.floats(0.2, 20)


def logits(seed, rows=3, classes=5):
    generator = torch.Generator().manual_seed(seed)
    drawn = 3 * torch.randn(2, rows, classes, dtype=torch.float64, generator=generator)
    return drawn[0].requires_grad_(), drawn[1].requires_grad_()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), temperatures)
def test_B6_the_loss_written_out(seed, temperature):
    student, teacher = logits(seed)
    p_t, p_s = ((z / temperature).softmax(1) for z in (teacher, student))
    by_hand = temperature**2 * (p_t * (p_t.log() - p_s.log())).sum() / 3
    torch.testing.assert_close(kd_loss(student, teacher, temperature), by_hand)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), temperatures)
def test_B6_the_gradient_is_T_times_the_difference_of_probabilities(seed, temperature):
    student, teacher = logits(seed)
    (found,) = torch.autograd.grad(kd_loss(student, teacher, temperature), student)
    p_t, p_s = ((z / temperature).softmax(1) for z in (teacher, student))
    torch.testing.assert_close(found, temperature * (p_s - p_t) / 3, rtol=1e-9, atol=1e-12)


def test_B6_equal_logits_give_no_loss_and_no_gradient():
    student, _ = logits(0)
    loss = kd_loss(student, student.detach() + 7.0, 2.5)  # a constant changes no probability
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-14)
    (found,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-14)


def test_B6_at_high_temperature_it_is_the_square_distance_of_centered_logits():
    student, teacher = logits(1)
    centered = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
    limit = (centered[0] - centered[1]).square().sum() / (2 * 5) / 3  # over 2K and the batch
    torch.testing.assert_close(kd_loss(student, teacher, 1e5), limit, rtol=1e-4, atol=0)


def test_it_can_be_differentiated_twice_in_both():
    assert torch.autograd.gradcheck(kd_loss, logits(2, rows=2, classes=3))
    assert torch.autograd.gradgradcheck(kd_loss, logits(2, rows=2, classes=3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_that_cannot_be(temperature):
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        kd_loss(*logits(0), temperature)


@pytest.mark.parametrize(
    "shapes", [((3, 5), (3, 4)), ((3,), (3,)), ((3, 5), (1, 5)), ((0, 5),) * 2]
)
def test_logits_of_other_shapes(shapes):
    with pytest.raises(ValueError, match=r"must both be \[B, classes\], got shapes \["):
        kd_loss(*(torch.zeros(shape) for shape in shapes))
