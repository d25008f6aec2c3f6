"""Rules for operators of PyTorch that ONNX lacks: what they compute, by operators that it has.

They are the derivatives of convolution and of max pooling; all others PyTorch itself knows to
take apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten
Rule = Callable[..., Any]


class NoRule(Exception):
    """There is no rule for an ``operator``, or not for this use of it."""

    def __init__(self, operator: str, use: str) -> None:
        super().__init__(f"{operator} of {use}")
        self.operator = operator


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution by its input, weight and bias; None for what is not wanted.

    By the input: the transposed convolution. By the weight: a convolution of the input by the
    gradient, images in the place of channels, stride and dilation exchanged.
    """
    if transposed or groups != 1:
        raise NoRule("aten.convolution_backward", "a transposed or grouped convolution")
    size, kernel, reached = x.shape[2:], weight.shape[2:], grad.shape[2:]
    ends = range(len(size))
    by_x = by_weight = None
    if wanted[0]:
        full = [
            (reached[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1
            for i in ends
        ]
        rest = [size[i] - full[i] for i in ends]  # the last rows, which a stride may leave out
        by_x = aten.convolution(grad, weight, None, stride, padding, dilation, True, rest, 1)
    if wanted[1]:
        flipped = x.transpose(0, 1), grad.transpose(0, 1)
        found = aten.convolution(
            *flipped, None, dilation, padding, stride, False, [0] * len(size), 1
        )
        for i in ends:
            found = found.narrow(2 + i, 0, kernel[i])
        by_weight = found.transpose(0, 1)
    by_bias = grad.sum((0, *(2 + i for i in ends))) if wanted[2] else None
    return by_x, by_weight, by_bias


def max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Gradient of max pooling over windows side by side: it goes to the first maximum of each."""
    (kh, kw), (h, w), (rows, columns) = kernel, grad.shape[2:], x.shape[2:]
    plain = not ceil_mode and set(padding) == {0} and set(dilation) == {1}
    if not plain or list(stride or kernel) != list(kernel):
        use = "a max pooling whose windows do not lie side by side"
        raise NoRule("aten.max_pool2d_with_indices_backward", use)
    windows = x[:, :, : h * kh, : w * kw].unflatten(3, (w, kw)).unflatten(2, (h, kh))
    flat = windows.transpose(3, 4).flatten(4)  # [B, C, h, w, kh·kw]
    places = torch.arange(kh * kw, device=x.device)
    chosen = (flat.argmax(-1, keepdim=True) == places).to(grad.dtype)
    spread = (grad.unsqueeze(-1) * chosen).unflatten(4, (kh, kw)).transpose(3, 4)
    spread = spread.flatten(4, 5).flatten(2, 3)  # [B, C, h·kh, w·kw]
    return F.pad(spread, (0, columns - w * kw, 0, rows - h * kh))


RULES: dict[Any, Rule] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool2d_backward,
}
