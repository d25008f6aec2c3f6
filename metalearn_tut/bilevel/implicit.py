"""Implicit meta-gradients: differentiate where the inner loop ends, not how it got there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel.forward import functional, norm_of, query_outputs
from metalearn_tut.bilevel.inner import Loss, Params, Rate, inner_loop
from metalearn_tut.bilevel.objective import (
    DeferredGradients,
    Row,
    TaskGradients,
    TaskLoss,
    collect,
)
from metalearn_tut.tasks.sampler import check_choice
from metalearn_tut.tasks.task import Task, TaskBatch

Vector = Params
Product = Callable[[Vector], Vector]
SOLVERS = ("cg", "neumann")


def implicit_gradients(
    model: nn.Module,
    batch: TaskBatch,
    metas: Params,
    start: Callable[[Params], tuple[Params, Rate]],
    *,
    steps: int,
    pull: float = 0.0,
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    solver: str = "cg",
    solver_steps: int = 20,
    deferred: bool = False,
    **others: Any,
) -> TaskGradients | DeferredGradients:
    """Meta-gradients at the solution of the pulled inner problem (iMAML).

    With ``phi* = argmin L_s(phi) + pull/2 |phi - theta|^2``, the implicit function theorem
    gives ``d phi*/d theta = (I + H/pull)^-1``, H the Hessian of the support loss at phi*
    (Rajeswaran et al. 2019, lemma 1), so one linear solve replaces the whole backward pass.
    It is right only where the inner loop has converged. Learned rates get no gradient.

    Parameters
    ----------
    model, batch, metas, start, steps, loss, inner_loss, deferred
        As for :func:`task_gradients`.
    pull : float
        Strength of the L2 pull to the start (iMAML's lambda), > 0.
    solver : {"cg", "neumann"}
        :func:`conjugate_gradient`, or :func:`neumann` with the inner rate.
    solver_steps : int, default 20
        Products with the Hessian, at most.

    Raises
    ------
    ValueError
        If ``pull`` is 0, ``solver`` unknown, or an option is given that only unrolled
        engines have.
    """
    params, lr = start(metas)
    _check(pull, solver, lr, others)
    forward, norm = functional(model), norm_of(model)
    inner_loss = loss if inner_loss is None else inner_loss

    def row(task: Task) -> Row:
        def support_loss(p: Params) -> Tensor:
            return inner_loss(forward(p, task.support_x), task.support_y)

        with torch.no_grad():
            end = inner_loop(support_loss, params, steps=steps, lr=lr, pull=pull)
        end = {n: p.detach().requires_grad_() for n, p in end.items()}
        outputs = query_outputs(forward, end, task.support_x, task.query_x, norm)
        value = loss(outputs, task.query_y)

        @torch.enable_grad()
        def gradients() -> list[Tensor]:
            grads = torch.autograd.grad(value, list(end.values()), materialize_grads=True)
            hessian = hessian_product(support_loss, end)

            def matrix(u: Vector) -> Vector:
                return add(hessian(u), u, pull)  # H + pull·I

            v = dict(zip(end, grads, strict=True))
            if solver == "cg":
                u = conjugate_gradient(matrix, v, steps=solver_steps)
            else:
                u = neumann(matrix, v, steps=solver_steps, rate=lr)
            return [pull * u[n] if n in u else torch.zeros_like(m) for n, m in metas.items()]

        return value.detach(), outputs.detach(), gradients

    return collect(metas, map(row, batch), deferred)


def _check(pull: float, solver: str, lr: Rate, others: dict[str, Any]) -> None:
    """Refuse what has no implicit gradient; an option that is off is no harm."""
    if refused := sorted(name for name, value in others.items() if value is not None and value):
        raise ValueError(f"engine='implicit' does not take {refused[0]}; use engine='functional'")
    if pull <= 0:
        raise ValueError(f"engine='implicit' needs pull > 0 (iMAML's lambda), got {pull}")
    check_choice("solver", solver, SOLVERS)
    if solver == "neumann" and not isinstance(lr, (int, float)):
        raise ValueError("solver='neumann' needs one number as inner_lr; use solver='cg'")


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product of two dictionaries of tensors."""
    return sum((a[n] * b[n]).sum() for n in a)


def add(a: Vector, b: Vector, scale: float | Tensor = 1.0) -> Vector:
    """``a + scale · b``, entry by entry."""
    return {n: a[n] + scale * b[n] for n in a}


def hessian_product(loss: Loss, at: Params) -> Product:
    """``v -> H v`` with H the Hessian of ``loss`` at ``at``; the gradient is built once."""
    here = {n: p.detach().requires_grad_() for n, p in at.items()}
    grads = torch.autograd.grad(
        loss(here), list(here.values()), create_graph=True, materialize_grads=True
    )
    gradient = dict(zip(here, grads, strict=True))

    def product(v: Vector) -> Vector:
        along = dot(gradient, v)
        hv = torch.autograd.grad(
            along, list(here.values()), retain_graph=True, materialize_grads=True
        )
        return dict(zip(here, hv, strict=True))

    return product


def conjugate_gradient(
    product: Product, b: Vector, *, steps: int = 20, tol: float = 1e-10
) -> Vector:
    """Solve ``A x = b`` for symmetric positive definite A given as ``v -> A v``.

    Parameters
    ----------
    product : callable
        ``v -> A v`` on dictionaries of tensors.
    b : dict of Tensor
        Right-hand side.
    steps : int, default 20
        At most this many products; n of them solve a system of n unknowns, but for rounding.
    tol : float, default 1e-10
        Stop when the residual's norm falls below ``tol`` times that of ``b``.

    Notes
    -----
    It also stops before a direction along which A is not positive (an inner problem that is
    not convex there), with what it has so far: zero if that is the first direction.
    """
    x = {n: torch.zeros_like(v) for n, v in b.items()}
    residual, direction = b, b
    square = dot(residual, residual)
    stop = tol**2 * square
    for _ in range(steps):
        if square <= stop:
            break
        image = product(direction)
        curvature = dot(direction, image)
        if curvature <= 0:
            break
        length = square / curvature
        x = add(x, direction, length)
        residual = add(residual, image, -length)
        previous, square = square, dot(residual, residual)
        direction = add(residual, direction, square / previous)
    return x


def neumann(product: Product, b: Vector, *, steps: int = 20, rate: float = 1.0) -> Vector:
    """Approximate ``A^-1 b`` by ``rate · sum_{j<=steps} (I - rate · A)^j b``.

    It converges when every eigenvalue of A lies in ``(0, 2 / rate)``. With the inner
    learning rate as ``rate`` it is what back-propagation through ``steps`` more gradient
    steps at the solution would give.
    """
    term = b
    total = b
    for _ in range(steps):
        term = add(term, product(term), -rate)
        total = add(total, term)
    return {n: rate * t for n, t in total.items()}
