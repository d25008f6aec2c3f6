"""The inner loop stepped by ``higher``, the engine that the book teaches with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel.forward import Forward, functional
from metalearn_tut.bilevel.inner import Params, Rate, alias, masked, rate_at


def with_higher(model: nn.Module) -> tuple[Forward, Callable[..., Iterator[Params]]]:
    """The model as a function of its parameters, and the inner path that ``higher`` steps.

    One optimizer group per parameter tensor, so that each may have its own rate. The optimizer
    remembers every step it took: make a new one for each task. The copy of the model that
    ``higher`` makes is not used: what a layer reads without calling a submodule (the projection
    of ``nn.MultiheadAttention``, a layer in a list) has the old weights there.
    """
    import higher

    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=1.0)
    diffopt = higher.get_diff_optim(optimizer, model.parameters())
    return functional(model), partial(higher_path, diffopt)


def higher_path(
    diffopt: Any,
    loss: Callable[[Params], Tensor],
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
    """:func:`inner_path` with each update made by a ``higher`` differentiable optimizer."""
    if recompute:
        raise ValueError("recompute=True needs engine='functional' or 'vectorised', got 'higher'")
    current = start = masked(params, masks)
    masks = masks or {}

    def shaped(group: Sequence[str], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """None where ``higher`` is to leave a parameter alone: outside the group, or unused."""
        directions: list[Tensor | None] = []
        for name, grad in zip(current, grads, strict=True):
            if grad is None or name not in group:
                directions.append(None)
                continue
            grad = grad.detach() if first_order else grad
            directions.append(grad * masks[name].to(grad) if name in masks else grad)
        return directions

    for k in range(steps):
        for group in [list(params)] if groups is None else filter(len, groups):
            current = {n: alias(p) for n, p in current.items()}
            value = loss(current)
            if prox_weight:
                value = value + prox_weight / 2 * sum(
                    ((current[n] - start[n]) ** 2).sum() for n in group
                )
            updated = diffopt.step(
                value,
                params=list(current.values()),
                override={"lr": [rate_at(lr, k, n) if n in group else 0.0 for n in current]},
                grad_callback=partial(shaped, group),
            )
            current = dict(zip(current, updated, strict=True))
        yield current
