"""A function that takes gradients inside, recorded as plain operators with free sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from metalearn_tut.deployment.rules import RULES


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
