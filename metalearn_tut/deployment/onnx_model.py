"""A network as an ONNX model, and that model in onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.deployment.compact import OPSET, compacted, halved

INPUT, OUTPUT = "x", "logits"
_FIXED = (
    "the network's graph fixes the number of inputs: it reads it as a plain number, as len(x) "
    "does and x.shape[0] does not"
)


def require_extra() -> None:
    """Refuse, naming the packages, where the extra ``deploy`` is not installed."""
    packages = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ImportError(
            f"ONNX export needs {', '.join(missing)}: pip install 'metalearn-tut[deploy]'"
        )


def onnx_bytes(network: nn.Module, x: Tensor) -> bytes:
    """A network of one input as an ONNX model, for any number of rows."""
    return model_bytes(network, {INPUT: x}, {INPUT: "batch"}, [OUTPUT])


def with_notes(data: bytes, notes: Mapping[str, str]) -> bytes:
    """The same model with these notes as its metadata."""
    if not notes:
        return data
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, dict(notes))
    return model.SerializeToString()


def model_bytes(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    free: Mapping[str, str],
    outputs: Sequence[str],
    *,
    opset: int = OPSET,
    half: bool = False,
) -> bytes:
    """The network as an ONNX model; of its metadata, which name source files, nothing.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(*inputs.values())``.
    inputs : mapping of name to Tensor
        Examples, of two rows or more.
    free : mapping of name to str
        Inputs with any number of rows, and what that number is called.
    outputs : sequence of str
        Names of what it gives.
    opset : int, default 17
        Version of the operators.
    half : bool, default False
        Keep numbers as float16, where that changes none of them.
    """
    with _quietly(), torch.no_grad():
        import onnx

        sizes = {name: torch.export.Dim(name, min=1 + (name == "S")) for name in free.values()}
        shapes = tuple({0: sizes[free[n]]} if n in free else {} for n in inputs)
        try:
            # traced first: of a forward that writes to its weights torch.onnx alone would go on
            # to other ways to trace it, one of which ends the process
            given = tuple(inputs.values())
            traced = torch.export.export(network, given, dynamic_shapes=shapes, strict=False)
            names = {"input_names": [*inputs], "output_names": [*outputs]}
            how = {"dynamo": True, "verbose": False, "opset_version": max(opset, 18)}
            program = torch.onnx.export(traced, (), **how, **names)
        except Exception as error:  # of the exporter's own kinds, several screens long
            if "Constraints violated" in str(error):
                raise RuntimeError(_FIXED) from error
            raise ValueError(
                f"{type(network).__name__} cannot be written as ONNX: {_cause(error)}"
            ) from error
        model = compacted(program.model_proto, opset)
        if half:
            halved(model)
    onnx.checker.check_model(model)
    _name_sizes(model.graph, free)
    return model.SerializeToString()


def _name_sizes(graph: Any, free: Mapping[str, str]) -> None:
    """Call the free numbers of rows what they are to be called; refuse one that is not free."""
    rows = {
        part.name: part.type.tensor_type.shape.dim[0] for part in graph.input if part.name in free
    }
    if not all(size.dim_param for size in rows.values()):
        raise RuntimeError(_FIXED)
    called = {size.dim_param: free[name] for name, size in rows.items()}
    for part in (*graph.input, *graph.output):
        for size in part.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = called.get(size.dim_param, size.dim_param)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0].split(". Failure message")[0]


@contextmanager
def _quietly() -> Iterator[None]:
    """PyTorch's exporter warns of its own deprecated calls and of packages it can do without."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class Session(nn.Module):
    """An ONNX model in onnxruntime, called as the network that it was made from.

    Parameters
    ----------
    data : bytes
        The model.
    threads : int, optional
        As many as PyTorch has by default.
    """

    def __init__(self, data: bytes, threads: int | None = None) -> None:
        super().__init__()
        with _quietly():
            import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(data, options, providers=providers)
        self.inputs = [part.name for part in self.session.get_inputs()]
        self.outputs = [part.name for part in self.session.get_outputs()]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The first output, for inputs in the model's order: ``logits [B, ways]``."""
        return next(iter(self.named(**dict(zip(self.inputs, inputs, strict=True))).values()))

    def named(self, **inputs: Tensor) -> dict[str, Tensor]:
        """All outputs by name, for inputs by name."""
        found = self.session.run(None, {name: x.numpy() for name, x in inputs.items()})
        return dict(zip(self.outputs, map(torch.from_numpy, found), strict=True))
