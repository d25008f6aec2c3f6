"""Conv4: the four-block network of the MAML and prototypical-network papers."""

from __future__ import annotations

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

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, norm)
        self.norm = make_norm(norm, out_channels)

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
    width : int, default 32
        Channels of every block.
    norm : {"batch", "support", "group", "none"}, default "batch"
        Whose statistics normalize a query image: see :class:`TaskBatchNorm2d`.
    image_size : int, default 28
        Side of the square images, at least 16 (four poolings halve it four times).

    Raises
    ------
    ValueError
        If a size is too small or ``norm`` unknown; on a call, if the images have
        another shape.

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
        width: int = 32,
        norm: str = "batch",
        image_size: int = 28,
    ) -> None:
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("width", width, 1),
            ("image_size", image_size, 16),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        super().__init__(width * (image_size // 16) ** 2, ways, norm)
        self.in_channels, self.width, self.image_size = in_channels, width, image_size
        self.blocks = nn.ModuleList(
            ConvBlock(channels, width, norm) for channels in (in_channels, width, width, width)
        )

    def embed(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Features ``[B, width · (image_size // 16)²]`` of ``x [B, C, image_size, image_size]``."""
        inputs.check_images(x, self.in_channels, self.image_size, n_support)
        x = inputs.prefer_channels_last(x)
        for block in self.blocks:
            x = block(x, n_support)
        return x.flatten(1)
