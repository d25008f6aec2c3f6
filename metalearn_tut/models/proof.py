"""A deployed network proves itself: one answer to an image, whatever comes with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.models.bound import with_tensors

Call = tuple[str, Tensor, Tensor]
"""A layer's name, what it was given first, and what it gave."""


def same(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, not-finite numbers in the same places."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    close = min(1e4 * torch.finfo(a.dtype).eps, 0.05)
    finite = b[b.isfinite()]
    size = finite.abs().max().item() if finite.numel() else 0.0
    return torch.allclose(a, b.to(a), rtol=0.0, atol=close * (1 + size), equal_nan=True)


def depends_on_others(answer: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether the answer to the first of ``x [B, ...]`` changes, or fails, when it comes alone."""
    together = answer(x)[:1]
    try:
        return not same(answer(x[:1]), together)
    except (RuntimeError, ValueError):  # PyTorch's batch norms refuse a batch of one
        return True


def prove_alone(network: nn.Module, x: Tensor) -> None:
    """Refuse a network that judges an image by others, naming its first layer that does.

    Raises
    ------
    ValueError
        If the first of ``x [B, ...]`` does not get alone the answer that it gets in a batch.
    """
    if depends_on_others(lambda rows: with_tensors(network, {})(rows.clone()), _company(x)):
        raise ValueError(
            f"{type(network).__name__} cannot be deployed: {_culprit(network, x)} normalizes an "
            "input by those that come with it, so that an answer would depend on its company; "
            "use batch norms that are called once each, group norm, or models.TaskBatchNorm2d"
        )


def _culprit(network: nn.Module, x: Tensor) -> str:
    """The first layer that makes of the same input something else when it comes alone."""
    modules = dict(network.named_modules())
    pairs = zip_longest(_calls(network, _company(x)), _calls(network, x[:1]))
    for (name, given, gave), alone in pairs:
        where = f"layer {name!r} ({type(modules[name]).__name__})" if name else "its only layer"
        if alone is None or not _first(gave, alone[2]):
            alike = alone is None or _first(given, alone[1])
            return where if alike else f"what its forward() does before {where}"
    return "its forward()"


def prove_equal(network: nn.Module, x: Tensor, expected: Tensor) -> None:
    """Refuse a network that does not answer ``x`` as it was predicted.

    Raises
    ------
    ValueError
        Saying by how much it differs.
    """
    found = with_tensors(network, {})(x.clone())
    if found.shape != expected.shape or not same(found, expected):
        gap = "in shape"
        if found.shape == expected.shape:
            gap = f"by up to {(found - expected).abs().max().item():.2g}"
        raise ValueError(
            f"{type(network).__name__} cannot be deployed: on the support set it answers otherwise "
            f"({gap}) than the predictor; its forward() depends on more than weights and input"
        )


def _company(x: Tensor) -> Tensor:
    """The inputs, and half of each: also a single one is then not alone."""
    return torch.cat([x, x / 2 if x.is_floating_point() else x.flip(-1)])


def _first(a: Tensor, b: Tensor) -> bool:
    """Whether the two agree in the first row."""
    return a[:1].shape == b[:1].shape and same(a[:1], b[:1])


def _calls(network: nn.Module, x: Tensor) -> list[Call]:
    """The calls of the layers that have no layers of their own, in their order."""
    twin = with_tensors(network, {})
    calls: list[Call] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                calls.append((name, args[0], output))

        return hook

    for name, layer in twin.named_modules():
        if not [*layer.children()]:
            layer.register_forward_hook(hook_of(name))
    with torch.no_grad(), suppress(RuntimeError, ValueError):
        twin(x.clone())
    return calls
