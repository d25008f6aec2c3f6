"""Which layer holds an operator that no file can: named when an export fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.deployment.rules import NoRule
from metalearn_tut.deployment.traced import traced


def refusal(learner: str, error: Exception, network: nn.Module, x: Tensor) -> ValueError:
    """One sentence on what cannot be exported: the operator, and the layer that it is of.

    Parameters
    ----------
    learner : str
        What was to be exported.
    error : Exception
        Why it was not: a :class:`~metalearn_tut.deployment.rules.NoRule`, or the words of
        PyTorch's exporter.
    network : nn.Module
        That of the learner.
    x : Tensor [B, ...]
        What it is called with.
    """
    operator = _operator(error)
    if operator is None:
        return ValueError(f"{learner} cannot be exported: {str(error).rpartition('ONNX: ')[2]}")
    layer = next((n for n, f, v in _calls(network, x) if _has(operator, f, v)), None)
    where = f" of layer {layer}" if layer else ""
    return ValueError(
        f"{learner} cannot be exported: {operator}{where} has no operator in ONNX, and no rule "
        "here that makes it of others"
    )


def _operator(error: Exception) -> str | None:
    if isinstance(error, NoRule):
        return error.operator
    found = re.search(r"op='(aten\.\w+)'|(aten\.\w+)", str(error))
    return (found[1] or found[2]) if found else None


def _calls(network: nn.Module, x: Tensor) -> list[tuple[str, Callable[..., Any], Tensor]]:
    """The layers without layers of their own, as they are called: name, function and input."""
    calls: list[tuple[str, Callable[..., Any], Tensor]] = []
    hooks = []
    for name, layer in network.named_modules():
        if not [*layer.children()]:
            shown = f"{name or 'forward'!r} ({type(layer).__name__})"
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda m, args, shown=shown: calls.append((shown, m.forward, args[0]))
                )
            )
    try:
        with torch.no_grad():
            network(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _has(operator: str, forward: Callable[..., Any], x: Tensor) -> bool:
    """Whether the operator is left in this layer's own trace, forwards and backwards."""

    def both(x: Tensor) -> Any:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            out = forward(at)
            return torch.autograd.grad(out.square().sum(), at)

    try:
        graph = traced(both, [x])
    except NoRule as error:
        return error.operator == operator
    except Exception:  # it has none of its own: an integer input, no gradient
        return False
    return any(str(node.target).startswith(operator) for node in graph.graph.nodes)
