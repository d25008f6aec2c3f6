"""The one inner loop: gradient descent as a map from parameters to parameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]
Rate = float | Tensor | Mapping[str, float | Tensor] | Sequence
"""One rate, one per parameter name, or (a sequence, or a 1-D tensor) one of these per step."""


def is_per_step(lr: Rate) -> bool:
    """Whether ``lr`` holds one entry per inner step."""
    return isinstance(lr, Sequence) or (isinstance(lr, Tensor) and lr.ndim == 1)


def rate_at(lr: Rate, step: int, name: str) -> float | Tensor:
    """The learning rate of parameter ``name`` at inner step ``step``."""
    lr = lr[step] if is_per_step(lr) else lr
    return lr[name] if isinstance(lr, Mapping) else lr


def masked(params: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None) -> Params:
    """The parameters with masked weights at zero: where every inner loop starts."""
    masks = masks or {}
    return {n: p * masks[n].to(p) if n in masks else p for n, p in params.items()}


def private(params: Mapping[str, Tensor]) -> Params:
    """The same numbers in other memory, since ``nn.Embedding(max_norm=...)`` writes to weights."""
    return {n: p.clone() for n, p in params.items()}


def inner_path(
    loss: Loss,
    params: Mapping[str, Tensor],
    *,
    steps: int,
    lr: Rate,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    first_order: bool = False,
    prox_weight: float = 0.0,
    recompute: bool = False,
) -> Iterator[Params]:
    """Descend ``loss`` from ``params`` and yield the parameters after every step.

    One step of each group in turn, every gradient taken at the newest values:

    ``p <- p - lr · mask · (dL/dp + prox_weight · (p - p_start))``

    Parameters
    ----------
    loss : callable
        Parameters -> scalar. For T independent tasks at once, parameters carry a leading
        dimension T and the loss is the sum over tasks.
    params : mapping of name to Tensor
        Where to start (theta); never changed in place.
    steps : int
        Number of steps K >= 0.
    lr : float, Tensor, mapping or sequence
        One rate; a mapping gives one per parameter (a tensor of the parameter's own shape
        gives one per weight); a sequence or 1-D tensor gives one of these per step.
        Tensors may require a gradient: learned rates.
    masks : mapping of name to 0/1 Tensor, optional
        Weights with mask 0 start at zero and stay there.
    groups : sequence of sequences of names, optional
        Which parameters to step, in which order within a step; all at once by default.
        What is in no group is not adapted.
    first_order : bool, default False
        Treat inner gradients as constants when differentiating the result (FOMAML).
    prox_weight : float, default 0
        Strength of the L2 pull to the start, as in iMAML.
    recompute : bool, default False
        Keep no activations of inner steps and compute them again in the backward pass:
        less memory, about one more forward pass per step.

    Yields
    ------
    dict of name to Tensor
        After each step. Inside ``torch.no_grad()`` they carry no graph and earlier steps
        are freed.

    Raises
    ------
    RuntimeError
        Inside ``torch.inference_mode()``, where no gradient can be taken.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("the inner loop needs gradients: use no_grad(), not inference_mode()")
    track = torch.is_grad_enabled()
    start, masks = masked(params, masks), masks or {}
    groups = [list(start)] if groups is None else groups

    def descend(k: int, current: Params, group: Sequence[str]) -> Params:
        with torch.enable_grad():
            here = {n: alias(p, track) for n, p in current.items()}
            grads = torch.autograd.grad(
                loss(here),
                [here[n] for n in group],
                create_graph=track and not first_order,
                materialize_grads=True,
            )
        stepped = {}
        for name, grad in zip(group, grads, strict=True):
            direction = grad + prox_weight * (here[name] - start[name]) if prox_weight else grad
            direction = direction.detach() if first_order else direction
            direction = direction * masks[name].to(direction) if name in masks else direction
            stepped[name] = here[name] - rate_at(lr, k, name) * direction
        return {**current, **stepped}

    def step(k: int, current: Params) -> Params:
        for group in filter(len, groups):  # all of one may be frozen
            current = descend(k, current, group)
        return current if track else {n: p.detach() for n, p in current.items()}

    current = start
    for k in range(steps):
        current = _recomputed(step, k, current) if recompute and track else step(k, current)
        yield current


def inner_loop(
    loss: Loss,
    params: Mapping[str, Tensor],
    *,
    path: Callable[..., Iterator[Params]] = inner_path,
    **settings: Any,
) -> Params:
    """The parameters after the last step of :func:`inner_path`, which has the arguments.

    Examples
    --------
    The scalar quadratic ``(w - a)**2 / 2`` shrinks its distance to ``a`` by ``1 - lr``:

    >>> w = {"w": torch.tensor(0.0, dtype=torch.float64, requires_grad=True)}
    >>> end = inner_loop(lambda p: (p["w"] - 1) ** 2 / 2, w, steps=3, lr=0.1)
    >>> round(end["w"].item(), 6), round(1 - 0.9**3, 6)
    (0.271, 0.271)
    """
    last = deque(path(loss, params, **settings), maxlen=1)
    return last.pop() if last else masked(params, settings.get("masks"))


def alias(p: Tensor, track: bool = True) -> Tensor:
    """The same numbers as a tensor that no other parameter was computed from.

    What earlier groups became depends on ``p``; a gradient with respect to ``p`` itself would
    run through them too, and be the total derivative where a partial one is wanted. With no
    history to keep it is a fresh leaf, so that no graph is kept.
    """
    return p.view_as(p) if track and p.requires_grad else p.detach().requires_grad_()


def _recomputed(step: Callable[[int, Params], Params], k: int, current: Params) -> Params:
    """Run one step under activation checkpointing, which passes tensors positionally."""
    names = list(current)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(step(k, private(dict(zip(names, tensors, strict=True)))).values())

    return dict(zip(names, checkpoint(flat, *current.values(), use_reentrant=False), strict=True))
