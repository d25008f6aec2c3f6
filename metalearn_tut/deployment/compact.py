"""An ONNX model without what no runtime needs: metadata, long names, a newer opset."""

from __future__ import annotations

from typing import Any

import numpy as np

OPSET, IR_VERSION = 17, 8
"""The standard operators of 2022, and the file format that came with them."""

_WORTH_A_CAST = 32  # numbers: fewer take less room than the node
_FLOAT = 1  # onnx.TensorProto.FLOAT
_AXES_WERE_AN_ATTRIBUTE = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"}


def compacted(model: Any, opset: int = OPSET) -> Any:
    """The same model, changed in place: nothing that names this machine, and of an older opset.

    Names of inputs and outputs stay; those of all that is between them become short.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
    del graph.value_info[:]
    _shorten(graph)
    if opset < model.opset_import[0].version:
        _lower(model)
    return model


def halved(model: Any) -> None:
    """Keep as float16 the numbers that it changes nothing of; computed is in float32."""
    import onnx

    graph, casts = model.graph, []
    for part in graph.initializer:
        values = onnx.numpy_helper.to_array(part)
        if values.dtype != np.float32 or values.size < _WORTH_A_CAST:
            continue
        with np.errstate(over="ignore"):
            short = values.astype(np.float16)
        if np.array_equal(short.astype(np.float32), values):
            name = f"{part.name}h"
            casts.append(onnx.helper.make_node("Cast", [name], [part.name], to=_FLOAT))
            part.CopyFrom(onnx.numpy_helper.from_array(short, name))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _shorten(graph: Any) -> None:
    """Give values short names, and nodes none; not where graphs lie inside one another."""
    if any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute):
        return
    kept = {part.name for part in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"_{len(short):x}")

    for initializer in graph.initializer:
        initializer.name = renamed(initializer.name)
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)


def _lower(model: Any) -> None:
    """From PyTorch's opset 18 to 17, where the reductions have their axes as an attribute.

    A model with another operator that differs keeps its opset.
    """
    import onnx

    graph = model.graph
    constants = {part.name: part for part in graph.initializer}
    reductions = [node for node in graph.node if node.op_type in _AXES_WERE_AN_ATTRIBUTE]
    used = {node.op_type for node in graph.node} - _AXES_WERE_AN_ATTRIBUTE
    with_axes = [node for node in reductions if len(node.input) > 1]
    plain = all(len(node.input) < 4 for node in graph.node if node.op_type == "Pad")
    known = all(node.input[1] in constants for node in with_axes)
    if not (plain and known and _alike(used)):
        return
    for node in reductions:
        attributes = [part for part in node.attribute if part.name == "keepdims"]
        if len(node.input) > 1:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            attributes.append(onnx.helper.make_attribute("axes", axes))
        del node.input[1:], node.attribute[:]
        node.attribute.extend(attributes)
    read = {name for node in graph.node for name in node.input}
    unread = [part for part in graph.initializer if part.name not in read]
    for part in unread:
        graph.initializer.remove(part)
    model.opset_import[0].version = OPSET
    model.ir_version = IR_VERSION


def _alike(operators: set[str]) -> bool:
    """Whether these are the same in both opsets, but for types and choices that we do not use."""
    import onnx

    same = {"Pad", "ScatterElements", "ScatterND"}  # 18 added axes, and reductions max and min
    newest = {name: onnx.defs.get_schema(name, 18).since_version for name in operators - same}
    return all(version <= OPSET for version in newest.values())
