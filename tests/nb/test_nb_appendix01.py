"""The checkers of appendix 1's exercises take every right answer and no wrong one."""

import pytest
import torch
from torch.func import grad

from metalearn_tut.nb.chapters import appendix01


def not_attempted(*args):
    raise NotImplementedError


@pytest.mark.parametrize("check", [appendix01.check_inner_loop, appendix01.check_spectral_norm])
def test_an_exercise_not_attempted_is_no_failure(check, capsys):
    check(not_attempted)
    assert capsys.readouterr().out.endswith("not attempted yet\n")


# Exercise 1: the inner loop with momentum


def loop(loss, params, inner_lr, inner_steps, slopes=lambda s: s, velocity=lambda v: v, rate=0.9):
    speed = {n: torch.zeros_like(p) for n, p in params.items()}
    for _ in range(inner_steps):
        found = grad(loss)(params)
        speed = {n: rate * velocity(speed[n]) + slopes(found[n]) for n in params}
        params = {n: params[n] - inner_lr * speed[n] for n in params}
    return params


def by_autograd(loss, params, inner_lr, inner_steps):
    """Without torch.func, and the velocity as the last difference of parameters."""
    before = params
    for _ in range(inner_steps):
        slopes = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
        after = {
            n: p - inner_lr * g + 0.9 * (p - before[n])
            for (n, p), g in zip(params.items(), slopes, strict=True)
        }
        before, params = params, after
    return params


@pytest.mark.parametrize("answer", [loop, by_autograd])
def test_right_loops_are_taken(answer, capsys):
    appendix01.check_inner_loop(answer)
    assert capsys.readouterr().out == "Exercise 1: correct\n"


def detached(x):
    return x.detach()


def as_printed(*args):
    """The loop of the page, with its wrong line."""
    return loop(*args, velocity=detached)


def first_order(*args):
    return loop(*args, slopes=detached)


def from_a_copy(loss, params, *rest):
    return loop(loss, {n: p.detach().clone() for n, p in params.items()}, *rest)


def in_place(loss, params, *rest):
    end = loop(loss, params, *rest)
    with torch.no_grad():
        for n, p in params.items():
            p.copy_(end[n])
    return params


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (as_printed, r"2 step\(s\): meta-gradient"),
        (first_order, r"1 step\(s\): meta-gradient"),
        (from_a_copy, "must be differentiable"),
        (in_place, "parameters given were changed"),
        (lambda *args: loop(*args, rate=0.0), r"2 step\(s\): .* off by"),
        (lambda *args: loop(*args, slopes=lambda s: -s), r"1 step\(s\): .* off by"),
        (lambda *args: loop(*args[:3], args[3] + 1), r"0 step\(s\): .* off by"),
        (lambda *args: {"out": loop(*args)["out"]}, "expected the parameters hidden, bias, out"),
    ],
)
def test_wrong_loops_are_not(answer, why):
    with pytest.raises(AssertionError, match=why):
        appendix01.check_inner_loop(answer)


# Exercise 2: spectral norm


def power_iteration(weight, steps, keep):
    u = torch.ones(len(weight), dtype=weight.dtype)
    with torch.set_grad_enabled(keep):
        for _ in range(steps):
            v = weight.T @ u
            v = v / v.norm()
            u = weight @ v
            u = u / u.norm()
    return weight / (u @ weight @ v)


@pytest.mark.parametrize(
    "answer",
    [
        lambda weight: weight / torch.linalg.matrix_norm(weight, 2),
        lambda weight: weight / torch.linalg.svdvals(weight).max(),
        lambda weight: weight / torch.linalg.eigvalsh(weight @ weight.T)[-1].sqrt(),
        lambda weight: power_iteration(weight, 100, keep=True),
    ],
)
def test_right_spectral_norms_are_taken(answer, capsys):
    appendix01.check_spectral_norm(answer)
    assert capsys.readouterr().out == "Exercise 2: correct\n"


def changing_its_weight(weight):
    with torch.no_grad():
        weight /= torch.linalg.matrix_norm(weight, 2)
    return weight


class Once(torch.autograd.Function):
    """A first derivative that is right and has no graph."""

    @staticmethod
    def forward(ctx, w):
        ctx.save_for_backward(w)
        return w / torch.linalg.matrix_norm(w, 2)

    @staticmethod
    def backward(ctx, g):
        w = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            value = w / torch.linalg.matrix_norm(w, 2)
        return torch.autograd.grad(value, w, g.detach())[0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda w: power_iteration(w, 100, keep=False), "second derivative: off by"),  # as torch's
        (lambda w: w / torch.linalg.matrix_norm(w, 2).detach(), "first derivative: off by"),
        (lambda w: w / torch.linalg.matrix_norm(w), "value: off by"),
        (lambda w: power_iteration(w, 2, keep=True), "value: off by"),
        (lambda w: torch.linalg.matrix_norm(w, 2), "expected shape"),
        (lambda w: (w / torch.linalg.matrix_norm(w, 2)).detach(), "result must be differentiable"),
        (changing_its_weight, "weight given was changed"),
        (Once.apply, "first derivative must be differentiable"),
    ],
)
def test_wrong_spectral_norms_are_not(answer, why):
    with pytest.raises(AssertionError, match=why):
        appendix01.check_spectral_norm(answer)
