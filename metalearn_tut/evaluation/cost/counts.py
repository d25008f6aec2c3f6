"""What is counted in a network: parameters and multiply-adds, those kept or those open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from metalearn_tut.bilevel.checks import check_masks
from metalearn_tut.evaluation.cost.passes import taking, zeros
from metalearn_tut.models.mode import evaluating

Masks = Mapping[str, Tensor]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def parameters(model: nn.Module, masks: Masks | None = None) -> int:
    """Number of parameters, frozen ones included; a tensor used in two places counts once.

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
    return sum(layer_macs(model, input_shape, _masks_of(model, masks)).values())


def layer_macs(
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
        with evaluating(model), taking(input_shape):
            model(zeros(model, 1, input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return counts
