"""What is measured with a network: its file, its speed, and all four numbers together."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from metalearn_tut.checks import check_count, whole_number
from metalearn_tut.evaluation.cost.counts import Masks, macs, parameters
from metalearn_tut.evaluation.cost.passes import taking, zeros
from metalearn_tut.models.mode import evaluating
from metalearn_tut.saliency.sparse import save_sparse


@dataclass(frozen=True, repr=False)
class Cost:
    """What :func:`measure` found.

    Parameters
    ----------
    parameters : int
        Trainable and frozen numbers, shared ones once.
    macs : int
        Multiply-adds for one input.
    size_bytes : int
        Size of the saved file.
    latency : float
        Seconds for one input.
    """

    parameters: int
    macs: int
    size_bytes: int
    latency: float

    def __repr__(self) -> str:
        return (
            f"Cost({self.parameters:,} parameters, {self.macs:,} MACs, "
            f"{self.size_bytes:,} bytes, {1e3 * self.latency:.2f} ms)"
        )


def measure(model: nn.Module, input_shape: Sequence[int], masks: Masks | None = None) -> Cost:
    """All four numbers, for one input of ``input_shape`` (without the batch dimension).

    With ``masks`` the first three are those of what is kept; the latency is that of the network
    as it is, which multiplies by zeros as by other numbers.

    Examples
    --------
    >>> measure(nn.Linear(4, 3), (4,))  # doctest: +ELLIPSIS
    Cost(15 parameters, 12 MACs, ... bytes, ... ms)
    """
    return Cost(
        parameters(model, masks),
        macs(model, input_shape, masks),
        size_bytes(model, masks),
        latency(model, input_shape),
    )


def size_bytes(model: nn.Module, masks: Masks | None = None) -> int:
    """Bytes of the safetensors file that holds the parameters and buffers.

    With ``masks``, of the file that :func:`~metalearn_tut.saliency.save_sparse` writes:
    what they keep, and a bit for each weight.

    Raises
    ------
    ValueError
        If a mask does not fit, or a weight that it prunes is not 0.
    """
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if masks is None:
            save_model(model, str(path))
        else:
            save_sparse(path, dict([*model.named_parameters(), *model.named_buffers()]), masks)
        return path.stat().st_size


def latency(
    model: nn.Module,
    input_shape: Sequence[int],
    batch: int = 1,
    *,
    warmup: int = 5,
    repeats: int = 30,
    x: Tensor | None = None,
) -> float:
    """Seconds of one forward pass: the median of warm runs, in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Left as it was; its device is the one that is timed.
    input_shape : sequence of int
        Shape of one input, e.g. ``(1, 28, 28)``.
    batch : int, default 1
        Inputs per pass.
    warmup, repeats : int, default 5 and 30
        Passes before the clock runs, and passes timed.
    x : Tensor [batch, ...], optional
        The inputs, for a network that does not take zeros; they count instead of ``batch``.

    Raises
    ------
    ValueError
        If ``batch`` or ``repeats`` is below 1, ``warmup`` below 0, or the model takes no such
        input.
    """
    batch, repeats = check_count(batch=batch, repeats=repeats)
    warmup = whole_number("warmup", warmup)
    if x is None:
        with taking(input_shape):
            x = zeros(model, batch, input_shape)
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    seconds = []
    with evaluating(model), taking(input_shape):
        for _ in range(warmup + repeats):
            wait()
            start = time.perf_counter()
            model(x)
            wait()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warmup:])
