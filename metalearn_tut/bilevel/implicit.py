"""Implicit meta-gradients: differentiate where the inner loop ends, not how it got there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_tut.bilevel.inner import Loss, Params

Vector = Params
Product = Callable[[Vector], Vector]


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product of two dictionaries of tensors."""
    return sum(((a[n] * b[n]).sum() for n in a), start=torch.zeros(()))


def add(a: Vector, b: Vector, scale: float | Tensor = 1.0) -> Vector:
    """``a + scale · b``, entry by entry."""
    return {n: a[n] + scale * b[n] for n in a}


def hessian_product(loss: Loss, at: Params) -> Product:
    """``v -> H v`` with H the Hessian of ``loss`` at ``at``; the gradient is built once."""
    here = {n: p.detach().requires_grad_() for n, p in at.items()}
    grads = torch.autograd.grad(
        loss(here), list(here.values()), create_graph=True, materialize_grads=True
    )

    def product(v: Vector) -> Vector:
        inner = sum(((g * v[n]).sum() for n, g in zip(here, grads, strict=True)))
        hv = torch.autograd.grad(
            inner, list(here.values()), retain_graph=True, materialize_grads=True
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
        At most this many products.
    tol : float, default 1e-10
        Stop when the residual's norm falls below ``tol`` times that of ``b``.
    """
    x = {n: torch.zeros_like(v) for n, v in b.items()}
    residual, direction = b, b
    square = dot(residual, residual)
    stop = tol**2 * square
    for _ in range(steps):
        if square <= stop:
            break
        image = product(direction)
        length = square / dot(direction, image)
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
