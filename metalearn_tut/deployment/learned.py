"""What a device has learned, as a network of its own: the classifying half with its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from metalearn_tut.deployment.learner_checks import checked_path
from metalearn_tut.deployment.onnx_model import require_extra
from metalearn_tut.files.cache import atomic_write


def write_learned(
    classify: str | os.PathLike[str],
    weights: Mapping[str, Tensor | np.ndarray],
    path: str | os.PathLike[str],
    *,
    int8: bool = False,
) -> int:
    """Write the network of one task: ``query_x [Q, ...]`` to ``logits [Q, ways]``.

    Parameters
    ----------
    classify : path
        The second of the two files of :func:`~metalearn_tut.deployment.export_learner`.
    weights : mapping of name to Tensor or array
        What the first gives for a support set, in onnxruntime.
    path : path
        A file ending in ``.onnx``; it is replaced at once, or stays as it is if anything fails.
    int8 : bool, default False
        Keep weights as 8-bit integers and compute with them, by onnxruntime's own dynamic
        quantization: the file is about a quarter as large, and answers are no longer the same.

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    ImportError
        If the extra ``deploy`` is not installed, naming what is missing.
    ValueError
        If ``path`` does not end in ``.onnx``, or the weights are not those that the file takes.
    OSError
        If a file cannot be read or written.
    """
    path = checked_path("path", path)
    require_extra()
    import onnx

    model = onnx.load(os.fspath(classify))
    _bind(model.graph, {name: np.asarray(value) for name, value in weights.items()})
    data = (_quantized(model) if int8 else model).SerializeToString()
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def _bind(graph: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Make constants of the graph's inputs, of all but the queries."""
    import onnx

    shapes = {
        part.name: [size.dim_value for size in part.type.tensor_type.shape.dim]
        for part in graph.input
        if part.name != "query_x"
    }
    given = {name: list(value.shape) for name, value in weights.items()}
    if given != shapes:
        wrong = next(n for n in {**shapes, **given} if shapes.get(n) != given.get(n))
        raise ValueError(
            f"weights must be those that classify takes: {wrong} has shape "
            f"{shapes.get(wrong, 'none')} there, got {given.get(wrong, 'none')}"
        )
    queries = [part for part in graph.input if part.name == "query_x"]
    del graph.input[:]
    graph.input.extend(queries)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in weights.items()
    )


def _quantized(model: Any) -> Any:
    """The model with weights of 8 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it advises to optimize the model first
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "int8.onnx"
            # unsigned: onnxruntime has no integer convolution of signed weights
            quantize_dynamic(model, file, weight_type=QuantType.QUInt8)
            return onnx.load(file)
    finally:
        log.setLevel(level)
