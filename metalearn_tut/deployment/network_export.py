"""From an adapted network to an ONNX file that runs without PyTorch, checked and timed there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metalearn_tut.deployment.onnx_model import Session, onnx_bytes, require_extra, with_notes
from metalearn_tut.evaluation import cost
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.models.bound import with_tensors
from metalearn_tut.models.norms import TaskBatchNorm2d

_TOLERANCE = 1e-5
_BATCHES = (1, 2, 5, 16)


@dataclass(frozen=True, repr=False)
class Exported:
    """What :func:`export_network` wrote, and how it compares with the network.

    Parameters
    ----------
    path : Path
        The file.
    size_bytes : int
        Its size.
    difference : float
        Largest difference between its outputs and PyTorch's.
    latency, torch_latency : float
        Seconds for one input, in onnxruntime and in PyTorch, with as many threads.
    """

    path: Path
    size_bytes: int
    difference: float
    latency: float
    torch_latency: float

    def __repr__(self) -> str:
        return (
            f"Exported({self.path}: {self.size_bytes:,} bytes, outputs equal to "
            f"{self.difference:.0e}, {1e3 * self.latency:.2f} ms in onnxruntime, "
            f"{1e3 * self.torch_latency:.2f} ms in PyTorch)"
        )


def export_network(
    network: nn.Module,
    path: str | os.PathLike[str],
    input_shape: Sequence[int],
    *,
    seed: int = 0,
    examples: Tensor | None = None,
    notes: Mapping[str, str] | None = None,
) -> Exported:
    """Write a deployed network as an ONNX file, if onnxruntime computes the same from it.

    The file takes inputs ``x [B, *input_shape]`` with any B and gives ``logits [B, ways]``, in
    float32. Before it is written it is run in onnxruntime on random inputs between 0 and 1, in
    batches of 1, 2, 5 and 16: each output must be within 1e-5 of PyTorch's, relative to the
    largest output if that is above 1. The file names no folder of this machine.

    Parameters
    ----------
    network : nn.Module
        A network that judges each input alone, such as ``learner.adapt(x, y).deploy()``,
        pruned or not. It is left as it was; its evaluation mode is exported.
    path : path
        A file ending in ``.onnx``; it is replaced at once, or stays as it is if anything fails.
    input_shape : sequence of int
        Shape of one input, such as ``(1, 28, 28)``.
    seed : int, default 0
        Names the random inputs.
    examples : Tensor [B, ...], optional
        Inputs to compare by instead of random ones, and whose kind the file takes: for a network
        that reads integers, such as words.
    notes : mapping of str to str, optional
        Kept in the file as its metadata, such as what the classes are called.

    Returns
    -------
    Exported
        With the file's size, the largest difference, and the latency of both.

    Raises
    ------
    ImportError
        If the extra ``deploy`` is not installed, naming what is missing.
    ValueError
        If ``path`` has another ending, or the network is not in float32 or not deployed, or has
        an operation that ONNX lacks, which is named.
    RuntimeError
        If onnxruntime computes something else, or the network's graph is for one number of
        inputs alone.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> export_network(nn.Linear(4, 3), "linear.onnx", (4,))  # doctest: +SKIP
    Exported(linear.onnx: 348 bytes, outputs equal to 6e-08, 0.01 ms in onnxruntime, ...)
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"path must end in .onnx, got {path}")
    _check_network(network)
    require_extra()
    network = _plain(network)
    inputs = _inputs(input_shape, seed) if examples is None else _repeated(examples, input_shape)
    data = with_notes(onnx_bytes(network, inputs[1]), notes or {})
    session = Session(data)
    difference = max(_difference(network, session, x) for x in inputs)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    latency = cost.latency(session, input_shape, x=inputs[0])
    torch_latency = cost.latency(network, input_shape, x=inputs[0])
    return Exported(path, len(data), difference, latency, torch_latency)


def _plain(network: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, whose parametrized weights are weights."""
    network = with_tensors(network, {}, training=False)
    for layer in [*network.modules()]:
        for name in [*layer.parametrizations] if parametrize.is_parametrized(layer) else []:
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return network.cpu()


def _inputs(shape: Sequence[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(b, *shape, generator=generator) for b in _BATCHES]


def _repeated(examples: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """The examples in turn, in batches of the usual sizes."""
    if not len(examples) or examples.shape[1:] != torch.Size(shape):
        raise ValueError(
            f"examples must be [B, {', '.join(map(str, shape))}], got {list(examples.shape)}"
        )
    return [examples.cpu()[torch.arange(b) % len(examples)] for b in _BATCHES]


def _check_network(network: nn.Module) -> None:
    for name, p in network.named_parameters():
        if p.dtype != torch.float32:
            raise ValueError(f"network must be in float32 (network.float()), {name} is {p.dtype}")
    for name, layer in network.named_modules():
        plain = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if isinstance(layer, TaskBatchNorm2d) or (plain and layer.running_mean is None):
            raise ValueError(
                f"network must judge each input alone, but {name or 'it'} normalizes by the "
                "batch: export learner.adapt(support_x, support_y).deploy()"
            )


@torch.no_grad()
def _difference(network: nn.Module, session: nn.Module, x: Tensor) -> float:
    """Largest difference of outputs, each input given to the network alone."""
    expected = torch.cat([network(row.clone()) for row in x.split(1)])  # it may write to them
    found = session(x)
    difference = (found - expected).abs().max().item()
    if not difference <= _TOLERANCE * max(1.0, expected.abs().max().item()):
        raise RuntimeError(
            f"onnxruntime's outputs for {len(x)} inputs differ from PyTorch's by {difference:.1e}: "
            "no file was written"
        )
    return difference
