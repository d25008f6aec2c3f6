"""Checks of chapter 6's exercises: the length of a guided step, and its meta-gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.nb import check, close

__all__ = ["check_factor", "check_outer"]


def check_factor(my_factor: Callable[[float, float, float, int], float]) -> None:
    """Exercise 6.1: how much longer the first step of a linear student is under guidance.

    ``my_factor(top, w, T, ways)`` for soft labels with ``top`` on the right class and the rest
    even. The right answer is found by taking the two steps.

    Examples
    --------
    >>> check_factor(lambda top, w, T, ways: 1 + w * T * (ways * top - 1) / (ways - 1))
    Exercise 6.1: correct
    """

    def verify() -> None:
        for top, w, T, ways in (
            (1.0, 1.0, 4.0, 5),
            (0.6, 1.0, 1.0, 5),
            (0.9, 0.25, 3.0, 2),
            (0.1, 2.0, 1.0, 5),
            (0.25, 3.0, 2.0, 4),
        ):
            what = f"factor for top = {top}, w = {w}, T = {T}, {ways} ways"
            right = _first_step(ways, top, w, T) / _first_step(ways, top, 0.0, T)
            close(my_factor(top, w, T, ways), right[0, 0], what)

    check("Exercise 6.1", verify)


def _first_step(ways: int, top: float, w: float, T: float) -> Tensor:
    """Minus the gradient at logits of zero, one image of each class, by autograd."""
    labels = torch.eye(ways, dtype=torch.float64)
    even = (1 - top) / (ways - 1)
    soft = (labels * (top - even) + even).clamp_min(1e-300)
    logits = torch.zeros(ways, ways, dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(logits, labels) + w * kd_loss(logits, T * soft.log(), T)
    return -torch.autograd.grad(loss, logits)[0]


def check_outer(my_outer: Callable[..., Tensor]) -> None:
    """Exercise 6.2: the outer slope ``[d]`` of a linear student after one guided step.

    ``my_outer(theta, X, y, t, X_q, y_q, alpha, w)`` in float64; the right answer is autograd's.
    """

    def verify() -> None:
        generator = torch.Generator().manual_seed(0)
        for d, rows, queries, alpha, w in (
            (2, 3, 2, 0.0, 1.0),
            (3, 5, 4, 0.3, 0.0),
            (4, 6, 3, 0.2, 0.7),
        ):
            X = torch.randn(rows, d, generator=generator).double()
            X_q = torch.randn(queries, d, generator=generator).double()
            y = torch.randn(rows, generator=generator).double()
            t = torch.randn(rows, generator=generator).double()
            y_q = torch.randn(queries, generator=generator).double()
            theta = torch.randn(d, generator=generator).double()
            right = _by_autograd(theta, X, y, t, X_q, y_q, alpha, w)
            what = f"slope for d = {d}, alpha = {alpha}, w = {w}"
            mine = my_outer(theta.clone(), X, y, t, X_q, y_q, alpha, w)
            close(mine, right, what, tolerance=1e-8)

    check("Exercise 6.2", verify)


def _by_autograd(
    theta: Tensor, X: Tensor, y: Tensor, t: Tensor, X_q: Tensor, y_q: Tensor, alpha: float, w: float
) -> Tensor:
    theta = theta.clone().requires_grad_()
    support = F.mse_loss(X @ theta, y) / 2 + w * F.mse_loss(X @ theta, t) / 2
    (slope,) = torch.autograd.grad(support, theta, create_graph=True)
    query = F.mse_loss(X_q @ (theta - alpha * slope), y_q) / 2
    return torch.autograd.grad(query, theta)[0]
