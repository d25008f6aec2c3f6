"""Gates that say of each image how much it needs a residual block, and masks made from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from metalearn_tut.checks import check_choice

_OPEN = 0.9  # every gate's mark before training, about
_WIDTH = 16  # of the hidden layer of pooled gates


def _conv_norm(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def _soft1(channels: int) -> list[nn.Module]:
    # ceil_mode, so that there is a pixel left of images as small as they can get
    pool = nn.MaxPool2d(2, ceil_mode=True)
    return [pool, *_conv_norm(channels, 1), *_conv_norm(channels, 2), nn.AdaptiveAvgPool2d(1)]


def _soft2(channels: int) -> list[nn.Module]:
    return [*_conv_norm(channels, 2), nn.AdaptiveAvgPool2d(1)]


def _pooled(channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, _WIDTH, 1, bias=False)
    return [nn.AdaptiveAvgPool2d(1), conv, nn.BatchNorm2d(_WIDTH), nn.ReLU()]


def _alone(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, _WIDTH, 1), nn.ReLU()]


GATE_KINDS: dict[str, Callable[[int], list[nn.Module]]] = {
    "soft1": _soft1,
    "soft2": _soft2,
    "pooled": _pooled,
    "alone": _alone,
}


class BlockGate(nn.Module):
    """A small network from a block's input to the block's mark in [0, 1], one for each image.

    Some layers, a 1×1 convolution to two channels, and the second output of their softmax.
    The mark is soft in training and in evaluation: what is made of it, is
    :func:`~metalearn_tut.models.hard_mask`'s and :func:`~metalearn_tut.models.gumbel_mask`'s
    business.

    Parameters
    ----------
    kind : {"soft1", "soft2", "pooled", "alone"}
        ``"soft1"`` is SkipNet's SoftGateI: 2×2 max pooling, a 3×3 convolution, another of
        stride 2 (each with batch norm and ReLU), the average over pixels. ``"soft2"``, its
        SoftGateII for very deep networks, has the second convolution only. ``"pooled"`` is
        ConvNet-AIG's: average over pixels, 1×1 convolution to 16 channels, batch norm, ReLU.
        ``"alone"`` is the same without the norm: the mark of an image depends on no other image.
    channels : int
        Channels C of the block's input.

    Raises
    ------
    ValueError
        If ``kind`` is unknown or ``channels < 1``.

    Notes
    -----
    Marks start near 0.9: blocks are to be on before the gates have learned anything. That is
    our choice, as is the small random weight behind it.

    References
    ----------
    Wang et al., *SkipNet: Learning Dynamic Routing in Convolutional Networks*, 2018; Veit and
    Belongie, *Convolutional Networks with Adaptive Inference Graphs*, 2018.

    Examples
    --------
    >>> BlockGate("soft1", 16)(torch.rand(4, 16, 8, 8)).shape
    torch.Size([4, 1, 1, 1])
    """

    def __init__(self, kind: str, channels: int) -> None:
        check_choice("gate", kind, GATE_KINDS)
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        super().__init__()
        self.kind, self.channels = kind, channels
        self.features = nn.Sequential(*GATE_KINDS[kind](channels))
        self.head = nn.Conv2d(_WIDTH if kind in ("pooled", "alone") else channels, 2, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([0.0, math.log(_OPEN / (1 - _OPEN))]))

    def forward(self, x: Tensor) -> Tensor:
        """Marks ``[B, 1, 1, 1]`` of the images whose features are ``x [B, C, H, W]``."""
        return self.head(self.features(x)).softmax(1)[:, 1:]
