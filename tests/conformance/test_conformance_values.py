"""The right values of the cases, by a second method each."""

import pytest
import torch
from conformance_cases import BY_NAME, Optimized, Plain, slopes_of
from torch.func import functional_call

from metalearn_tut.conformance import CASES, right_value
from metalearn_tut.conformance.judge import distance
from metalearn_tut.conformance.truth import LARGE, Trained, by_autograd, by_differences

SMALL = [c for c in CASES if sum(p.numel() for p in c.module().parameters()) <= LARGE]
LARGE_ONES = [c for c in CASES if c not in SMALL]
named = {"ids": lambda case: case.name}


def test_every_case_has_a_name_of_its_own():
    assert len(BY_NAME) == len(CASES) >= 40


@pytest.mark.slow(quick=8)
@pytest.mark.parametrize("case", SMALL, **named)
def test_a_step_ten_times_as_long_gives_the_same_differences(case):
    assert distance(by_differences(case, 1e-5), right_value(case)) < 1e-6


# Complex steps: exact to the last digits, for networks of linear layers and tanh.


def by_complex_step(case):
    module, step = case.in_float64(), 1e-30
    start = {n: p.detach().to(torch.complex128) for n, p in module.named_parameters()}

    def loss(params, x, y):
        return (functional_call(module, params, x.to(torch.complex128)) - y).square().mean()

    def meta_loss(start):
        total = 0
        for task in case.tasks():
            params = start
            for _ in range(case.inner_steps):
                params = {n: p.detach().requires_grad_() for n, p in params.items()}
                value = loss(params, task.support_x, task.support_y)
                # of a holomorphic function autograd gives the conjugate of the derivative
                slopes = slopes_of(value, params, grad_outputs=torch.ones_like(value))
                params = {n: p - case.inner_lr * slopes[n].conj() for n, p in params.items()}
            total = total + loss(params, task.query_x, task.query_y)
        return total / len(case.tasks())

    found = {}
    for name, p in start.items():
        shifts = torch.eye(p.numel(), dtype=torch.complex128) * 1j * step
        ends = [meta_loss(start | {name: p + shift.view_as(p)}).imag / step for shift in shifts]
        found[name] = torch.stack(ends).view(p.shape).detach()
    return found


@pytest.mark.parametrize(
    "name",
    [
        "three linear layers",
        "one layer called twice",
        "a weight read without calling its layer",
        "parameters without a layer",
        "buffers, one of them counting",
        "inputs that are not contiguous",
        "no inner step",
        "twenty inner steps",
    ],
)
def test_complex_steps_give_the_right_value(name):
    case = BY_NAME[name]
    assert distance(by_complex_step(case), right_value(case)) < 1e-8


# Closed forms and formulas


def test_the_implicit_gradient_is_its_closed_form():
    case, total = BY_NAME["implicit, at the minimum"], 0
    pull = case.options["prox_weight"]
    module = case.in_float64()
    start = torch.cat([module.weight.detach().flatten(), module.bias.detach()])
    for task in case.tasks():
        sets = (task.support_x, task.support_y), (task.query_x, task.query_y)
        ones = torch.ones(4, 1).double()
        (a, b), (q, z) = ((torch.cat([x, ones], 1), y.flatten()) for x, y in sets)
        matrix = 2 * a.T @ a / 4 + pull * torch.eye(4).double()
        end = torch.linalg.solve(matrix, 2 * a.T @ b / 4 + pull * start)
        query = 2 * q.T @ (q @ end - z) / 4
        total = total + pull * torch.linalg.solve(matrix, query) / 2
    expected = {"weight": total[:3].view(1, 3), "bias": total[3:]}
    assert distance(expected, right_value(case)) < 1e-8


@pytest.mark.parametrize(
    "name", ["inner SGD with momentum", "inner Adam", "inner Adam, eps of 1/1024"]
)
def test_the_optimizers_are_their_formulas(name):
    case = BY_NAME[name]
    module, settings = case.module(), {"inner_lr": case.inner_lr, "inner_steps": case.inner_steps}
    found = Optimized()(module, case.loss, case.tasks(), **settings, **case.options)
    assert distance(found, right_value(case)) < 1e-6


# Large cases, and those computed with less than float64


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("case", LARGE_ONES, **named)
def test_a_large_case_has_the_slope_along_a_random_direction(case):
    trained, right = Trained(case), right_value(case)
    torch.manual_seed(1)
    along = {n: torch.randn_like(p) for n, p in trained.start.items()}

    def at(shift):
        middle = dict(trained.start)
        trained.start = {n: p + shift * along[n] for n, p in middle.items()}
        value = trained.meta_loss()
        trained.start = middle
        return value

    measured = (at(1e-6) - at(-1e-6)) / 2e-6
    expected = sum((along[n] * right[n]).sum() for n in along).item()
    assert measured == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.tolerance > 1e-6], **named)
def test_what_is_computed_with_less_is_the_same_function(case):
    x, exact, module = case.tasks()[0].query_x, case.in_float64(), case.module()
    assert {n: p.shape for n, p in exact.named_parameters()} == {
        n: p.shape for n, p in module.named_parameters()
    }
    torch.testing.assert_close(module(x).double(), exact(x.double()), rtol=0.02, atol=0.02)


def test_both_ways_to_the_right_value_agree():
    case = BY_NAME["three linear layers"]
    assert distance(by_autograd(case), by_differences(case)) < 1e-8
    plain = Plain()(case.module(), case.loss, case.tasks(), inner_lr=0.25, inner_steps=2)
    assert distance(plain, by_differences(case)) < 1e-8
