"""Appendix 1: the checks of its exercises, all judged by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.bilevel import Params
from metalearn_tut.nb import check, close

__all__ = ["check_inner_loop", "check_spectral_norm"]

Loss = Callable[[Params], Tensor]


def check_inner_loop(my_inner_loop: Callable[[Loss, Params, float, int], Params]) -> None:
    """Exercise 1: an inner loop with momentum 0.9 that keeps the graph.

    ``my_inner_loop(loss, params, inner_lr, inner_steps)`` returns the adapted parameters of
    ``velocity = 0.9 · velocity + gradient``, ``params = params - inner_lr · velocity``. Their
    values are judged by these two lines, the gradient that reaches the start by the central
    finite difference of a query loss along one direction.

    Examples
    --------
    >>> def keeps_the_graph(loss, params, inner_lr, inner_steps):
    ...     velocity = {n: torch.zeros_like(p) for n, p in params.items()}
    ...     for _ in range(inner_steps):
    ...         slopes = torch.func.grad(loss)(params)
    ...         velocity = {n: 0.9 * velocity[n] + slopes[n] for n in params}
    ...         params = {n: params[n] - inner_lr * velocity[n] for n in params}
    ...     return params
    >>> check_inner_loop(keeps_the_graph)
    Exercise 1: correct
    """

    def verify() -> None:
        for seed, steps in ((0, 0), (1, 1), (2, 2), (3, 4)):
            _same_loop(my_inner_loop, _Problem(seed), steps)

    check("Exercise 1", verify)


class _Problem:
    """Support and query loss of a small smooth network, its start and a direction, float64."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        shapes = {"hidden": (2, 4), "bias": (4,), "out": (4, 1)}
        self.start = {n: draw(*shape) for n, shape in shapes.items()}
        self.along = {n: draw(*shape) for n, shape in shapes.items()}
        self.data = {part: (draw(6, 2), draw(6, 1)) for part in ("support", "query")}

    def _loss(self, params: Params, part: str) -> Tensor:
        x, y = self.data[part]
        return F.mse_loss(torch.tanh(x @ params["hidden"] + params["bias"]) @ params["out"], y)

    def support(self, params: Params) -> Tensor:
        return self._loss(params, "support")

    def query(self, params: Params) -> Tensor:
        return self._loss(params, "query")

    def moved(self, shift: float) -> Params:
        return {n: (p + shift * self.along[n]).requires_grad_() for n, p in self.start.items()}


def _with_momentum(loss: Loss, params: Params, inner_lr: float, inner_steps: int) -> Params:
    """The values of the loop, without a graph."""
    velocity = {n: torch.zeros_like(p) for n, p in params.items()}
    for _ in range(inner_steps):
        slopes = torch.autograd.grad(loss(params), list(params.values()))
        for name, slope in zip(params, slopes, strict=True):
            velocity[name] = 0.9 * velocity[name] + slope
        params = {n: (p - inner_lr * velocity[n]).detach() for n, p in params.items()}
        params = {n: p.requires_grad_() for n, p in params.items()}
    return params


def _same_loop(mine: Callable[..., Params], problem: _Problem, steps: int) -> None:
    settings = (0.1, steps)
    start = problem.moved(0.0)
    adapted = mine(problem.support, dict(start), *settings)
    if any(not torch.equal(start[n], p) for n, p in problem.start.items()):
        raise AssertionError(f"{steps} step(s): the parameters given were changed")
    right = _with_momentum(problem.support, problem.moved(0.0), *settings)
    if set(adapted) != set(right):
        raise AssertionError(f"{steps} step(s): expected the parameters {', '.join(right)}")
    for name, value in right.items():
        close(adapted[name], value, f"{steps} step(s): {name}", 1e-10)
    loss = problem.query(adapted)
    if not loss.requires_grad:
        raise AssertionError("the adapted parameters must be differentiable")
    grads = torch.autograd.grad(loss, list(start.values()), allow_unused=True)
    pairs = zip(start, grads, strict=True)
    slope = sum((g * problem.along[n]).sum() for n, g in pairs if g is not None)

    def at(shift: float) -> Tensor:
        return problem.query(_with_momentum(problem.support, problem.moved(shift), *settings))

    measured = (at(1e-6) - at(-1e-6)).detach() / 2e-6
    close(slope, measured, f"{steps} step(s): meta-gradient", 1e-7)


def check_spectral_norm(my_spectral_norm: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2: a weight ``[O, I]`` divided by its largest singular value, right twice.

    Its first and its second derivative are judged by central finite differences of its value
    and of its first derivative.

    Examples
    --------
    >>> check_spectral_norm(lambda weight: weight / torch.linalg.matrix_norm(weight, 2))
    Exercise 2: correct
    """

    def verify() -> None:
        for seed, shape in ((0, (4, 3)), (1, (3, 5)), (2, (1, 4))):
            _right_twice(my_spectral_norm, seed, shape)

    check("Exercise 2", verify)


def _right_twice(mine: Callable[[Tensor], Tensor], seed: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, along, read = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    where = f"weight {list(shape)}"

    def value(shift: float) -> Tensor:
        return (read * mine(weight + shift * along)).sum()

    def slope(shift: float, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        at = (weight + shift * along).requires_grad_()
        output = (read * mine(at)).sum()
        if not output.requires_grad:
            raise AssertionError(f"{where}: the result must be differentiable")
        (gradient,) = torch.autograd.grad(output, at, create_graph=create_graph)
        return (gradient * along).sum(), at

    before = weight.clone()
    expected = weight / torch.linalg.svdvals(weight)[0]
    close(mine(weight), expected, f"{where}: value", 1e-8)
    if not torch.equal(weight, before):
        raise AssertionError(f"{where}: the weight given was changed")
    eps = 1e-5
    first, at = slope(0.0, create_graph=True)
    measured = (value(eps) - value(-eps)).detach() / (2 * eps)
    close(first, measured, f"{where}: first derivative", 1e-6)
    if not first.requires_grad:
        raise AssertionError(f"{where}: the first derivative must be differentiable")
    (second,) = torch.autograd.grad(first, at)
    measured = (slope(eps)[0] - slope(-eps)[0]) / (2 * eps)
    close((second * along).sum(), measured, f"{where}: second derivative", 1e-6)
