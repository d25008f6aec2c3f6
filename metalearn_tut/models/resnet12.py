"""ResNet-12: the usual residual network of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.models import inputs
from metalearn_tut.models.few_shot import FewShotNetwork, conv3x3
from metalearn_tut.models.norms import make_norm, normalize, usual_group_size

_SLOPE = 0.1  # of LeakyReLU below zero


class ResidualBlock(nn.Module):
    """Three 3×3 convolutions beside a 1×1 shortcut, then 2×2 max pooling and LeakyReLU(0.1).

    As in :class:`~metalearn_tut.models.conv4.ConvBlock`, pooling before the activation is the
    same function for less work. ``inner`` are the channels between the three convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: str,
        inner: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        channels = (in_channels, *(inner or (out_channels, out_channels)), out_channels)
        size = usual_group_size(out_channels)  # also where filters have been removed
        self.convs = nn.ModuleList(conv3x3(c, d, norm, _SLOPE) for c, d in pairwise(channels))
        self.norms = nn.ModuleList(make_norm(norm, d, size) for d in channels[1:])
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.shortcut_norm = make_norm(norm, out_channels)

    def forward(
        self, x: Tensor, n_support: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H // 2, W // 2]``.

        A ``mask [B, 1, 1, 1]`` multiplies what the three convolutions give.
        """
        identity = normalize(self.shortcut_norm, self.shortcut(x), n_support)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = normalize(norm, conv(F.leaky_relu(x, _SLOPE) if i else x), n_support)
        if mask is not None:
            x = mask * x
        return F.leaky_relu(F.max_pool2d(x + identity, 2), _SLOPE)


class ShortcutBlock(nn.Module):
    """What is left of a :class:`ResidualBlock` without its three convolutions: a mask of 0."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.shortcut, self.shortcut_norm = block.shortcut, block.shortcut_norm

    def forward(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H // 2, W // 2]``."""
        identity = normalize(self.shortcut_norm, self.shortcut(x), n_support)
        return F.leaky_relu(F.max_pool2d(identity, 2), _SLOPE)


class ResNet12(FewShotNetwork):
    """Four residual blocks of three 3×3 convolutions, global average pooling, a linear head.

    Without the DropBlock regularization that some papers add.

    Parameters
    ----------
    ways : int
        Number of classes N of a task.
    widths : sequence of 4 ints, default (64, 128, 256, 512)
        Channels of the blocks; (64, 160, 320, 640) is the other usual choice.
    in_channels : int, default 3
        Channels of the images.
    norm : {"batch", "support", "group", "none"}, default "batch"
        Whose statistics normalize a query image: those of all query images of its task
        (transductive), those of the support set (inductive), its own, or none: see
        :class:`~metalearn_tut.models.TaskBatchNorm2d`.
    inner : sequence of 4 pairs of ints, optional
        Channels after the first and the second convolution of each block, where a network that
        has lost filters is narrower; by default those of the block. With ``norm="group"`` all
        groups of a block have the same size.

    Raises
    ------
    ValueError
        If ``widths`` are not four positive numbers, ``inner`` not four pairs of them, or
        ``norm`` is unknown; on a call, if the images have another number of channels or a side
        below 16.

    References
    ----------
    Mishra et al., *A Simple Neural Attentive Meta-Learner*, 2018; Lee et al.,
    *Meta-Learning with Differentiable Convex Optimization*, 2019.

    Examples
    --------
    >>> import torch
    >>> ResNet12(ways=5, widths=(8, 16, 32, 64))(torch.rand(4, 3, 84, 84)).shape
    torch.Size([4, 5])
    """

    def __init__(
        self,
        ways: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 3,
        norm: str = "batch",
        inner: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths must be four numbers of at least 1, got {tuple(widths)}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        inner = tuple(map(tuple, inner or ((d, d) for d in widths)))
        if [len(pair) for pair in inner] != [2] * 4 or min(map(min, inner)) < 1:
            raise ValueError(f"inner must be four pairs of numbers of at least 1, got {inner}")
        super().__init__(widths[-1], ways, norm)
        self.in_channels, self.widths, self.inner = in_channels, tuple(widths), inner
        ends = pairwise((in_channels, *widths))
        self.blocks = nn.ModuleList(
            ResidualBlock(c, d, norm, pair) for (c, d), pair in zip(ends, inner, strict=True)
        )

    def embed(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Features ``[B, widths[-1]]`` of the images ``x [B, C, H, W]``."""
        inputs.check_images(x, self.in_channels, n_support=n_support, least=16)
        x = inputs.prefer_channels_last(x)
        for block in self.blocks:
            x = block(x, n_support)
        return x.mean((2, 3))
