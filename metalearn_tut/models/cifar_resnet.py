"""The CIFAR ResNets of He et al.: three stages of two-convolution blocks, shortcuts for free."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.models import inputs

DEPTHS = (20, 32, 44, 56, 110)


class BasicBlock(nn.Module):
    """``relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))``, with an option-A shortcut.

    A block that halves the image and doubles the channels has a shortcut without parameters:
    every second pixel, and zeros for the new channels (half of them before the old ones, half
    after).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == out_channels else 2
        self.padding = (out_channels - in_channels) // 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def shortcut(self, x: Tensor) -> Tensor:
        """``x`` itself, or halved and padded with zero channels."""
        if self.stride == 1:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))

    def residual(self, x: Tensor) -> Tensor:
        """The branch of the two convolutions, of the shape of the result."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', ceil(H / stride), ceil(W / stride)]``."""
        return F.relu(self.shortcut(x) + self.residual(x))


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32×32 color images, with parameter-free (option A) shortcuts.

    A 3×3 stem, three stages of n blocks with 16, 32 and 64 channels, global average pooling
    and a linear head. Batch norms keep running statistics, as in ordinary training.

    Parameters
    ----------
    depth : {20, 32, 44, 56, 110}
        Number of weighted layers, 6n + 2.
    classes : int, default 10
        Number of classes.

    Attributes
    ----------
    blocks : nn.Sequential
        The 3n blocks in order; number n and 2n (from 0) change the shape, any other can be
        taken out and the network still runs.

    Raises
    ------
    ValueError
        If ``depth`` is not one of these or ``classes < 1``; on a call, if the images do not
        have 3 channels.

    References
    ----------
    He et al., *Deep Residual Learning for Image Recognition*, 2016, section 4.2.

    Examples
    --------
    >>> import torch
    >>> CifarResNet(20)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        super().__init__()
        self.depth, self.classes = depth, classes
        n = (depth - 2) // 6
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        widths = [16] * (n + 1) + [32] * n + [64] * n
        self.blocks = nn.Sequential(*(BasicBlock(c, d) for c, d in pairwise(widths)))
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """Features ``[B, 64]`` of the images ``x [B, 3, H, W]``."""
        inputs.check_images(x, 3)
        return self.blocks(self.stem(inputs.prefer_channels_last(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of the images ``x [B, 3, H, W]`` (usually 32×32)."""
        return self.head(self.embed(x))
