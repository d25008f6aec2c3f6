"""A network as an ONNX model, and that model in onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

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
    """The network as an ONNX model; of its metadata, which name source files, nothing."""
    with _quietly(), torch.no_grad():
        import onnx

        try:
            # traced first: of a forward that writes to its weights torch.onnx alone would go on
            # to other ways to trace it, one of which ends the process
            batch = {0: torch.export.Dim("batch", min=1)}
            traced = torch.export.export(network, (x,), dynamic_shapes=(batch,), strict=False)
            names = {"input_names": [INPUT], "output_names": [OUTPUT]}
            program = torch.onnx.export(traced, (), dynamo=True, verbose=False, **names)
        except Exception as error:  # of the exporter's own kinds, several screens long
            if "Constraints violated" in str(error):
                raise RuntimeError(_FIXED) from error
            raise ValueError(
                f"{type(network).__name__} cannot be written as ONNX: {_cause(error)}"
            ) from error
        model = program.model_proto
    for part in (model, model.graph, *model.functions, *model.graph.node, *model.graph.input):
        part.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    onnx.checker.check_model(model)
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise RuntimeError(_FIXED)
    return model.SerializeToString()


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
    """An ONNX model in onnxruntime, called as the network that it was made from."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        with _quietly():
            import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(data, options, providers=providers)

    def forward(self, x: Tensor) -> Tensor:
        """``x [B, ...]`` to ``logits [B, ways]``."""
        (outputs,) = self.session.run([OUTPUT], {INPUT: x.numpy()})
        return torch.from_numpy(outputs)
