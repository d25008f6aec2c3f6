"""Implicit meta-gradients: differentiate where the inner loop ends, not how it got there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel.forward import functional, norm_of, query_outputs
from metalearn_tut.bilevel.inner import Loss, Params, Rate, inner_loop, masked, private
from metalearn_tut.bilevel.objective import DeferredGradients, Row, TaskGradients, TaskLoss, collect
from metalearn_tut.checks import check_choice, whole_number
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
    prox_weight: float = 0.0,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    solver: str = "cg",
    solver_steps: int = 20,
    deferred: bool = False,
    **others: Any,
) -> TaskGradients | DeferredGradients:
    """Meta-gradients at the solution of the pulled inner problem (iMAML, HeTRoM's AID-CG).

    The inner loop steps some parameters, phi, from their start theta, and leaves the others, b,
    as they are. With ``phi* = argmin L_s(phi, b) + lambda/2 |phi - theta|^2``, lambda being
    ``prox_weight``, and one linear solve

    ``u = (H + lambda I)^-1 d l/d phi``,  H the Hessian of L_s in phi at phi*,

    the implicit function theorem gives the gradient of the query loss l(phi*, b): ``lambda u`` for
    theta, ``d l/d b - d/d b [u . d L_s/d phi]`` for b. If all parameters are stepped it is
    iMAML's (Rajeswaran et al. 2019, lemma 1). If the head alone is, and starts at zero, the pull
    is a ridge ``lambda/2 |phi|^2`` and the gradient HeTRoM's (our specification's default).

    It is right only where the inner loop has converged. Learned rates get no gradient.

    Parameters
    ----------
    model, batch, metas, start, steps, loss, inner_loss, deferred
        As for :func:`task_gradients`.
    prox_weight : float
        Strength of the L2 pull to the start (iMAML's lambda), > 0.
    masks : mapping of name to 0/1 Tensor, optional
        Pruned weights are zero, in phi and in b, and take no part in the solve.
    groups : sequence of sequences of names, optional
        What is stepped is their union, in whatever order: all reach the same solution. All
        parameters by default.
    solver : {"cg", "neumann"}
        :func:`conjugate_gradient`, or :func:`neumann` with the inner rate.
    solver_steps : int, default 20
        Products with the Hessian, at most.

    Raises
    ------
    ValueError
        If ``prox_weight`` is 0, ``groups`` step nothing, ``solver`` is unknown, or an option is
        given that only unrolled engines have.
    """
    params, lr = start(metas)
    stepped = list(params) if groups is None else list(dict.fromkeys(chain(*groups)))
    _check(prox_weight, stepped, solver, lr, others)
    solver_steps = whole_number("solver_steps", solver_steps)
    forward, norm = functional(model), norm_of(model)
    inner_loss = loss if inner_loss is None else inner_loss
    inner = {"steps": steps, "lr": lr, "prox_weight": prox_weight, "masks": masks, "groups": groups}

    def row(task: Task) -> Row:
        def support_loss(p: Params) -> Tensor:
            return inner_loss(forward(p, task.support_x), task.support_y)

        with torch.no_grad():
            end = inner_loop(support_loss, private(params), **inner)
        end = {n: p.detach().requires_grad_() for n, p in end.items()}
        outputs = query_outputs(forward, end, task.support_x, task.query_x, norm)
        value = loss(outputs, task.query_y)

        @torch.enable_grad()
        def gradients() -> list[Tensor]:
            grads = torch.autograd.grad(value, list(end.values()), materialize_grads=True)
            direct = masked(dict(zip(end, grads, strict=True)), masks)
            derivative = slope_along(support_loss, end, stepped)

            def matrix(u: Vector) -> Vector:
                return add(
                    masked(derivative(u, stepped), masks), u, prox_weight
                )  # H + prox_weight·I

            v = {n: direct[n] for n in stepped}
            if solver == "cg":
                u = conjugate_gradient(matrix, v, steps=solver_steps)
            else:
                u = neumann(matrix, v, steps=solver_steps, rate=lr)
            rest = [n for n in end if n in metas and n not in u]
            mixed = masked(derivative(u, rest), masks)
            found = {n: prox_weight * u[n] for n in u} | {n: direct[n] - mixed[n] for n in rest}
            return [found[n] if n in found else torch.zeros_like(m) for n, m in metas.items()]

        return value.detach(), outputs.detach(), gradients

    return collect(metas, row, batch, deferred)


def _check(
    prox_weight: float, stepped: Sequence[str], solver: str, lr: Rate, others: dict[str, Any]
) -> None:
    """Refuse what has no implicit gradient; an option that is off is no harm."""
    if refused := sorted(name for name, value in others.items() if value is not None and value):
        raise ValueError(f"engine='implicit' does not take {refused[0]}; use engine='functional'")
    if prox_weight <= 0:
        raise ValueError(
            f"engine='implicit' needs prox_weight > 0 (iMAML's lambda), got {prox_weight}"
        )
    if not stepped:
        raise ValueError(
            "engine='implicit' needs groups with at least one parameter, as it solves for what "
            "the inner loop steps, got none"
        )
    check_choice("solver", solver, SOLVERS)
    if solver == "neumann" and not isinstance(lr, Real):
        raise ValueError("solver='neumann' needs one number as inner_lr; use solver='cg'")


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product of two dictionaries of tensors."""
    return sum((a[n] * b[n]).sum() for n in a)


def add(a: Vector, b: Vector, scale: float | Tensor = 1.0) -> Vector:
    """``a + scale · b``, entry by entry."""
    return {n: a[n] + scale * b[n] for n in a}


def slope_along(
    loss: Loss, at: Params, names: Sequence[str]
) -> Callable[[Vector, Sequence[str]], Vector]:
    """``(u, by) -> d/d by [u . d loss/d names]`` at ``at``; the gradient is built once.

    With ``by`` the ``names`` themselves it is the Hessian's product with u, with other
    parameters that of the mixed second derivatives.
    """
    here = {n: p.detach().requires_grad_() for n, p in at.items()}
    grads = torch.autograd.grad(
        loss(here), [here[n] for n in names], create_graph=True, materialize_grads=True
    )
    gradient = dict(zip(names, grads, strict=True))

    def derivative(u: Vector, by: Sequence[str]) -> Vector:
        along = dot(gradient, u)
        if not by or not along.requires_grad:  # a loss that is linear has no second derivative
            return {n: torch.zeros_like(here[n]) for n in by}
        found = torch.autograd.grad(
            along, [here[n] for n in by], retain_graph=True, materialize_grads=True
        )
        return dict(zip(by, found, strict=True))

    return derivative


def hessian_product(loss: Loss, at: Params) -> Product:
    """``v -> H v`` with H the Hessian of ``loss`` at ``at``; the gradient is built once."""
    derivative = slope_along(loss, at, list(at))
    return lambda v: derivative(v, list(at))


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
