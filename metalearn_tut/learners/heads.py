"""The head of a network: which parameters it has, and one that starts every task at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalearn_tut import bilevel


def head_of(model: nn.Module, name: str = "head") -> list[str]:
    """Names of the parameters of the layer that is called ``name``, the model's head.

    Raises
    ------
    ValueError
        If there is no such layer, or it has no parameters.
    """
    named = [m for n, m in model.named_modules(remove_duplicate=False) if n == name]
    own = {id(p) for layer in named for p in layer.parameters()}
    # by identity: a tensor that the head shares is known by the name that comes first
    found = [n for n, p in bilevel.parameters_of(model).items() if id(p) in own]
    if not found:
        layers = ", ".join(repr(n) for n, m in model.named_modules() if n and [*m.parameters()])
        raise ValueError(
            f"{type(model).__name__} has no layer {name!r} to be its head: name it with head=, "
            f"one of {layers}"
        )
    return found


def check_zero_head(model: nn.Module, name: str) -> None:
    """Refuse a head that cannot start at zero: shared, frozen, or of several layers."""
    names, params = head_of(model, name), bilevel.parameters_of(model)
    layers = dict(model.named_modules(remove_duplicate=False))
    own, head = {id(params[n]) for n in names}, set(layers[name].modules())
    every = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in own]
    if shared := [n for n in every if layers[n.rpartition(".")[0]] not in head]:
        raise ValueError(
            f"zero_head=True needs a head {name!r} of its own, which shares no tensor: "
            f"{', '.join(shared)} would be zero, too"
        )
    whole = all(layers[n.rpartition(".")[0]] is layers[name] for n in names)
    if not whole or not all(params[n].requires_grad for n in names):
        raise ValueError(
            f"zero_head=True needs a head {name!r} of one layer that is not frozen: one of several "
            f"layers, or a frozen one, would stay at zero; it has {', '.join(names)}"
        )


def zeros_of(p: Tensor, lead: torch.Size, ways: int | None) -> Tensor:
    """A head tensor of zeros, with ``ways`` rows and the leading task dimension asked for."""
    rows = p.shape[0] if ways is None else ways
    return p.new_zeros((*lead, rows, *p.shape[1:]))
