"""A function that takes gradients inside, recorded as plain operators with free sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from metalearn_tut.deployment.rules import RULES, NoRule


@torch.no_grad()
def traced(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """What the function computes of these inputs, and of others with more or fewer rows.

    Derivatives that it takes become operators like all others. Tensors that it reads without
    being given them become constants.
    """
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    table = {**core_aten_decompositions(), **RULES}
    # Tensors from outside are no fake ones: they are the constants
    how = {"tracing_mode": "symbolic", "_allow_non_fake_inputs": True}
    graph = make_fx(lambda *given: function(*given), decomposition_table=table, **how)(*inputs)
    for name, p in [*graph.named_parameters()]:
        delattr(graph, name)
        graph.register_buffer(name, p.detach())
    return graph


def depending(graph: fx.Graph) -> list[bool]:
    """Of each output, whether it is computed from the values of an input."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        sizes = str(node.target).startswith(("aten.sym_size", "aten.sym_numel"))
        if node.op == "placeholder" or (not sizes and _any(node.all_input_nodes, reached)):
            reached.add(node)
    (results,) = graph.output_node().args
    return [isinstance(part, fx.Node) and part in reached for part in results]


def _any(nodes: Iterable[fx.Node], among: set[fx.Node]) -> bool:
    return any(node in among for node in nodes)


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
