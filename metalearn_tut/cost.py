"""What a network costs, measured on the network itself: parameters, MACs, bytes, seconds.

Measure the network that is deployed. Zeros in a weight change none of these numbers; a network
rebuilt smaller does. With the masks of a pruned network the first three count what is kept: what
there is to store and, for a device that can skip zeros, to compute. Seconds are never saved by
masks here.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel.checks import check_masks
from metalearn_tut.models.channel_gated import ChannelGated
from metalearn_tut.saliency.sparse import save_sparse
from metalearn_tut.tasks.sampler import check_count

Masks = Mapping[str, Tensor]
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


def parameters(model: nn.Module, masks: Masks | None = None) -> int:
    """Number of parameters; a tensor used in two places counts once.

    Parameters
    ----------
    model : nn.Module
        The network.
    masks : mapping of parameter name to bool Tensor, optional
        Count what they keep, and all of the parameters that have none. The share of this in
        all parameters is what Gao et al. (2021) call CR.

    Raises
    ------
    ValueError
        If a mask has no parameter or not its shape.

    Examples
    --------
    >>> parameters(nn.Linear(4, 3))
    15
    """
    masks = _masks_of(model, masks)
    return sum(_kept(p, masks) for p in model.parameters())


def _masks_of(model: nn.Module, masks: Masks | None) -> dict[Tensor, Tensor]:
    """Each masked parameter's mask: layers know their tensors, but not the tensors' names."""
    params = dict(model.named_parameters())
    check_masks(masks or {}, params)
    return {params[name]: mask for name, mask in (masks or {}).items()}


def _kept(p: Tensor, masks: Mapping[Tensor, Tensor]) -> int:
    return int(masks[p].count_nonzero()) if p in masks else p.numel()


def macs(model: nn.Module, input_shape: Sequence[int], masks: Masks | None = None) -> int:
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
    masks : mapping of parameter name to bool Tensor, optional
        Count one multiply-add for each weight they keep and each position where it is used.

    Raises
    ------
    ValueError
        If a mask has no parameter or not its shape.

    Notes
    -----
    Biases are not counted, masked or not. The code of Gao et al. (2021) counts for a convolution
    with k weights and b biases kept, C outputs and P positions, ``2 k P + P (b - C)`` FLOPs: a
    product for each weight, a sum for all but the first of each output, and one for each bias.
    That is ``2 · macs`` less a sum for each output that has no bias.

    Examples
    --------
    >>> macs(nn.Conv2d(3, 16, 3, padding=1), (3, 32, 32)) == 32 * 32 * 16 * 3 * 9
    True
    """
    return sum(_layer_macs(model, input_shape, _masks_of(model, masks)).values())


def _layer_macs(
    model: nn.Module, input_shape: Sequence[int], masks: Mapping[Tensor, Tensor]
) -> Counter[nn.Module]:
    """What each convolution and linear layer takes of :func:`macs`."""
    counts: Counter[nn.Module] = Counter()

    def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        # Rows are output channels, or input channels if the convolution is transposed.
        numbers = (args[0] if isinstance(layer, _TRANSPOSED) else output).numel()
        positions = numbers // len(layer.weight)
        counts[layer] += positions * _kept(layer.weight, masks)

    layers = [m for m in model.modules() if isinstance(m, (*_CONVS, *_TRANSPOSED, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with _evaluating(model), _taking(input_shape):
            model(_zeros(model, 1, input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def active_macs(
    network: ChannelGated, masks: Sequence[Tensor], input_shape: Sequence[int]
) -> Tensor:
    """Multiply-adds for each image when closed filters are left out, gates included.

    ``sum_l k_l² · (open inputs) · (open outputs) · H_l W_l``, and all that has no gate, and for
    each gate ``C_in · hidden + hidden · C_out``. All open, that is :func:`macs` of the network:
    those of the one without gates, and the gates'. :func:`~metalearn_tut.models.skip_each`
    does so many multiply-adds (a layer closed altogether excepted: it still computes a filter).

    Parameters
    ----------
    network : ChannelGatedConv4 or ChannelGatedResNet12
    masks : sequence of Tensor [B, C_l]
        ``network.masks(x)``; what is not 0 is open.
    input_shape : sequence of int
        Shape of one image.

    Returns
    -------
    Tensor [B] of int64

    Examples
    --------
    >>> from metalearn_tut.models import ChannelGatedConv4, Conv4
    >>> network, x = ChannelGatedConv4(Conv4(1, ways=5, width=8)), torch.rand(3, 1, 28, 28)
    >>> active = active_macs(network, network.masks(x, how="closed"), x.shape[1:])
    >>> active.tolist(), macs(network, x.shape[1:])
    ([912, 912, 912], 203704)
    """
    shapes = [list(mask.shape) for mask in masks]
    if not shapes or shapes != [[*shapes[0][:1], size] for size in network.sizes]:
        raise ValueError(
            f"masks must be one [B, C] for each gate, C being {network.sizes}, got shapes {shapes}"
        )
    counts = _layer_macs(network, input_shape, {})
    total = masks[0].new_full((len(masks[0]),), sum(counts.values()), dtype=torch.int64)
    for name, gates in network.wires.items():
        here = full = counts[network.get_submodule(name)]
        for gate in gates:
            if gate is not None:
                here = here * masks[gate].count_nonzero(1) // network.sizes[gate]
        total = total + here - full
    return total


def size_bytes(model: nn.Module, masks: Masks | None = None) -> int:
    """Bytes of the safetensors file that holds the parameters and buffers.

    With ``masks``, of the file that :func:`~metalearn_tut.saliency.sparse.save_sparse` writes:
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
        If ``batch`` or ``repeats`` is below 1, ``warmup`` below 0, or the model takes no such
        input.
    """
    check_count(batch=batch, repeats=repeats)
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"warmup must be an integer >= 0, got {warmup!r}")
    with _taking(input_shape):
        x = _zeros(model, batch, input_shape)
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    seconds = []
    with _evaluating(model), _taking(input_shape):
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


@contextmanager
def _taking(input_shape: Sequence[int]) -> Iterator[None]:
    """Name the shape if a model takes no such input."""
    try:
        yield
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"the model takes no input_shape of {input_shape}: {error}") from error
