"""The one inner loop: gradient descent as a map from parameters to parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]
Rate = float | Tensor | Mapping[str, float | Tensor] | Sequence
"""One rate, one per parameter name, or (a sequence, or a 1-D tensor) one of these per step."""


def rate_at(lr: Rate, step: int, name: str) -> float | Tensor:
    """The learning rate of parameter ``name`` at inner step ``step``."""
    if isinstance(lr, Sequence) or (isinstance(lr, Tensor) and lr.ndim == 1):
        lr = lr[step]
    return lr[name] if isinstance(lr, Mapping) else lr


def check_inner(
    params: Mapping[str, Tensor],
    steps: int,
    lr: Rate,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    pull: float = 0.0,
) -> None:
    """Refuse settings of an inner loop that cannot work, naming the argument."""
    if steps < 0:
        raise ValueError(f"inner_steps must be >= 0, got {steps}")
    if pull < 0:
        raise ValueError(f"pull must be >= 0, got {pull}")
    if isinstance(lr, Sequence) or (isinstance(lr, Tensor) and lr.ndim == 1):
        if len(lr) < steps:
            raise ValueError(f"inner_lr has {len(lr)} entries, fewer than inner_steps={steps}")
    elif isinstance(lr, (int, float)) and not 0 <= lr < float("inf"):
        raise ValueError(f"inner_lr must be finite and >= 0, got {lr}")
    stepped = {name for group in groups for name in group} if groups is not None else set(params)
    for what, names in (("groups", stepped), ("masks", set(masks or ()))):
        if unknown := sorted(names - set(params)):
            raise ValueError(
                f"{what} names no parameter of the model: {', '.join(unknown)}; "
                f"its parameters are {', '.join(params)}"
            )
    for name, mask in (masks or {}).items():
        if mask.shape != params[name].shape[-mask.ndim :] or mask.ndim > params[name].ndim:
            raise ValueError(
                f"masks[{name!r}] must have shape {tuple(params[name].shape)}, "
                f"got {tuple(mask.shape)}"
            )


def inner_path(
    loss: Loss,
    params: Mapping[str, Tensor],
    *,
    steps: int,
    lr: Rate,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    first_order: bool = False,
    pull: float = 0.0,
    recompute: bool = False,
) -> Iterator[Params]:
    """Descend ``loss`` from ``params`` and yield the parameters after every step.

    One step of each group in turn, every gradient taken at the newest values:

    ``p <- p - lr · mask · (dL/dp + pull · (p - p_start))``

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
    pull : float, default 0
        Strength of the L2 pull to the start, as in iMAML.
    recompute : bool, default False
        Keep no activations of inner steps and compute them again in the backward pass:
        less memory, about one more forward pass per step.

    Yields
    ------
    dict of name to Tensor
        After each step. Inside ``torch.no_grad()`` they carry no graph and earlier steps
        are freed.
    """
    track = torch.is_grad_enabled()
    masks = masks or {}
    start = {n: p * masks[n] if n in masks else p for n, p in params.items()}
    groups = [list(start)] if groups is None else groups

    def step(k: int, current: Params) -> Params:
        for group in groups:
            with torch.enable_grad():
                here = {n: _differentiable(p, track) for n, p in current.items()}
                grads = torch.autograd.grad(
                    loss(here),
                    [here[n] for n in group],
                    create_graph=track and not first_order,
                    allow_unused=True,
                )
            updated = {}
            for name, grad in zip(group, grads, strict=True):
                if grad is None:
                    grad = torch.zeros_like(here[name])
                if pull:
                    grad = grad + pull * (here[name] - start[name])
                if first_order:
                    grad = grad.detach()
                if name in masks:
                    grad = grad * masks[name]
                updated[name] = here[name] - rate_at(lr, k, name) * grad
            current = {**here, **updated}
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
    masks = settings.get("masks") or {}
    last = {n: p * masks[n] if n in masks else p for n, p in params.items()}
    for last in path(loss, params, **settings):  # noqa: B007
        pass
    return last


def _differentiable(p: Tensor, track: bool) -> Tensor:
    """``p`` itself where its history matters, else a fresh leaf, so that no graph is kept."""
    return p if track and p.requires_grad else p.detach().requires_grad_()


def _recomputed(step: Callable[[int, Params], Params], k: int, current: Params) -> Params:
    """Run one step under activation checkpointing, which passes tensors positionally."""
    names = list(current)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(step(k, dict(zip(names, tensors, strict=True))).values())

    return dict(zip(names, checkpoint(flat, *current.values(), use_reentrant=False), strict=True))
