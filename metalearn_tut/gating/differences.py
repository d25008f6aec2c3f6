"""Meta-gradients whose second derivatives are differences of two gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metalearn_tut.bilevel import Params
from metalearn_tut.bilevel.inner import Loss
from metalearn_tut.gating.stages import Step


def difference_product(loss: Loss, at: Params, v: Params, delta: float) -> Params:
    """``H v`` by central differences: ``[grad L(p + delta v) - grad L(p - delta v)] / (2 delta)``.

    The error falls with ``delta²``, until rounding takes over.

    Parameters
    ----------
    loss : callable
        Parameters -> scalar.
    at : dict of name to Tensor
    v : dict of name to Tensor
        For some of the parameters; zero for the others.
    delta : float

    Examples
    --------
    >>> at, v = {"w": torch.tensor(2.0)}, {"w": torch.tensor(1.0)}
    >>> difference_product(lambda p: p["w"] ** 3, at, v, 0.5)  # 6 w = 12
    {'w': tensor(12.)}
    """

    def gradient(sign: float) -> tuple[Tensor, ...]:
        here = {n: p + sign * delta * v[n] if n in v else p for n, p in at.items()}
        here = {n: p.detach().requires_grad_() for n, p in here.items()}
        with torch.enable_grad():
            value = loss(here)
        return torch.autograd.grad(value, list(here.values()), materialize_grads=True)

    pairs = zip(at, gradient(1), gradient(-1), strict=True)
    return {n: (up - down) / (2 * delta) for n, up, down in pairs}


def difference_gradients(at_end: Params, steps: Sequence[Step], delta: float) -> Params:
    """The gradient at the start of the inner loop, from that at its end.

    Backwards through the steps, ``g <- g - lr · H[:, names] g[names]`` with the Hessian H of
    the step's loss: what differentiating ``names <- names - lr · grad loss`` gives, two
    gradients for each step in place of a second derivative. For one step on all parameters that
    is the update of Per-FedAvg (HF).

    Parameters
    ----------
    at_end : dict of name to Tensor
        Gradient with respect to the parameters after the last step.
    steps : sequence of Step
    delta : float
        See :func:`difference_product`.

    Notes
    -----
    The difference is of the support loss itself, so that the result tends to the exact
    meta-gradient; published code of Per-FedAvg draws a third batch for it.

    References
    ----------
    Fallah, Mokhtari and Ozdaglar, *Personalized Federated Learning: A Meta-Learning Approach*,
    2020.
    """
    gradient = dict(at_end)
    for step in reversed(steps):
        v = {name: gradient[name] for name in step.names}
        product = difference_product(step.loss, step.at, v, delta)
        for name in gradient.keys() - step.constant:
            gradient[name] = gradient[name] - step.lr * product[name]
    return gradient
