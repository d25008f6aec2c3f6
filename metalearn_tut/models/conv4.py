"""Conv4: the four-block network of the MAML and prototypical-network papers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.models import inputs
from metalearn_tut.models.few_shot import FewShotNetwork, conv3x3
from metalearn_tut.models.norms import make_norm, normalize


class ConvBlock(nn.Module):
    """3×3 convolution, norm, 2×2 max pooling, ReLU.

    Pooling before the ReLU is the same function (both are monotone) on a quarter of the
    numbers.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm: str, group_size: int | None = None
    ) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, norm)
        self.norm = make_norm(norm, out_channels, group_size)

    def forward(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H // 2, W // 2]``."""
        return F.relu(F.max_pool2d(normalize(self.norm, self.conv(x), n_support), 2))


class Conv4(FewShotNetwork):
    """Four blocks of 3×3 convolutions and a linear head.

    Parameters
    ----------
    in_channels : int
        Channels of the images: 1 for grey ones, 3 for color.
    ways : int
        Number of classes N of a task.
    width : int or sequence of 4 ints, default 32
        Channels of every block, or of each.
    norm : {"batch", "support", "group", "none"}, default "batch"
        Whose statistics normalize a query image: those of all query images of its task
        (transductive), those of the support set (inductive), its own, or none: see
        :class:`~metalearn_tut.models.TaskBatchNorm2d`.
    image_size : int, default 28
        Side of the square images, at least 16 (four poolings halve it four times).
    group_size : int, optional
        Channels of a group, for ``norm="group"``; by default
        ``models.norms.usual_group_size`` of each block. A network that has
        lost filters keeps the groups of the one it came from.

    Raises
    ------
    ValueError
        If a size is too small, ``norm`` unknown, or ``group_size`` does not divide a width; on
        a call, if the images have another shape.

    References
    ----------
    Vinyals et al., *Matching Networks for One Shot Learning*, 2016 (width 64);
    Finn et al., *Model-Agnostic Meta-Learning*, 2017 (width 32 for mini-ImageNet).

    Examples
    --------
    >>> import torch
    >>> model = Conv4(in_channels=1, ways=5)
    >>> model(torch.rand(10, 1, 28, 28)).shape, model.embed(torch.rand(10, 1, 28, 28)).shape
    (torch.Size([10, 5]), torch.Size([10, 32]))
    """

    def __init__(
        self,
        in_channels: int,
        ways: int,
        width: int | Sequence[int] = 32,
        norm: str = "batch",
        image_size: int = 28,
        group_size: int | None = None,
    ) -> None:
        widths = tuple(width) if isinstance(width, Sequence) else (width,) * 4
        if len(widths) != 4:
            raise ValueError(f"width must be one number or four, got {widths}")
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("width", min(widths), 1),
            ("image_size", image_size, 16),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        super().__init__(widths[-1] * (image_size // 16) ** 2, ways, norm)
        self.in_channels, self.image_size, self.group_size = in_channels, image_size, group_size
        self.width = widths if isinstance(width, Sequence) else width
        self.blocks = nn.ModuleList(
            ConvBlock(c, d, norm, group_size) for c, d in pairwise((in_channels, *widths))
        )

    def embed(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Features ``[B, D]`` of ``x [B, C, image_size, image_size]``.

        D is the last block's width times ``(image_size // 16)²``, one channel after another.
        """
        inputs.check_images(x, self.in_channels, self.image_size, n_support)
        x = inputs.prefer_channels_last(x)
        for block in self.blocks:
            x = block(x, n_support)
        return x.flatten(1)
