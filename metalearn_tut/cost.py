"""What a network costs, measured on the network itself: parameters, MACs, bytes, seconds.

Measure the network that is deployed. Zeros in a weight change none of these numbers; a network
rebuilt smaller does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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


def measure(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """All four numbers, for one input of ``input_shape`` (without the batch dimension).

    Examples
    --------
    >>> measure(nn.Linear(4, 3), (4,))  # doctest: +ELLIPSIS
    Cost(15 parameters, 12 MACs, ... bytes, ... ms)
    """
    return Cost(
        parameters(model), macs(model, input_shape), size_bytes(model), latency(model, input_shape)
    )


def parameters(model: nn.Module) -> int:
    """Number of parameters; a tensor used in two places counts once.

    Examples
    --------
    >>> parameters(nn.Linear(4, 3))
    15
    """
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-adds of the convolutions and linear layers for one input.

    A convolution costs ``C_in / groups · kernel`` for each number it puts out, a transposed
    one ``C_out / groups · kernel`` for each number it takes in (padding counted as if it were
    multiplied, as is usual), a linear layer ``in_features`` for each number it puts out. Norms,
    pooling and activations are not counted, and neither is a convolution or matrix product
    that is not one of these modules.

    Counted by forward hooks while one zero input runs through the network in evaluation mode,
    so a layer that is called twice counts twice.

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    input_shape : sequence of int
        Shape of one input, e.g. ``(1, 28, 28)``.

    Examples
    --------
    >>> macs(nn.Conv2d(3, 16, 3, padding=1), (3, 32, 32)) == 32 * 32 * 16 * 3 * 9
    True
    """
    total = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # [C_out, C_in / groups, ...] of a convolution, [C_in, C_out / groups, ...] if transposed.
        per_number = layer.weight[0].numel()
        total += per_number * (args[0] if isinstance(layer, _TRANSPOSED) else output).numel()

    layers = [m for m in model.modules() if isinstance(m, (*_CONVS, *_TRANSPOSED, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with _evaluating(model):
            model(_zeros(model, 1, input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def size_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors file that holds the parameters and buffers."""
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(model, str(path))
        return path.stat().st_size


def latency(
    model: nn.Module,
    input_shape: Sequence[int],
    batch: int = 1,
    *,
    warmup: int = 5,
    repeats: int = 30,
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

    Raises
    ------
    ValueError
        If ``batch`` or ``repeats`` is below 1.
    """
    for name, value in (("batch", batch), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    x = _zeros(model, batch, input_shape)
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    seconds = []
    with _evaluating(model):
        for _ in range(warmup + repeats):
            wait()
            start = time.perf_counter()
            model(x)
            wait()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warmup:])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _zeros(model: nn.Module, batch: int, input_shape: Sequence[int]) -> Tensor:
    """``batch`` zero inputs of the dtype and on the device of the model's first parameter."""
    like = next(model.parameters(), torch.empty(0))
    return torch.zeros(batch, *input_shape, dtype=like.dtype, device=like.device)
