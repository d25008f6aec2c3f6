"""What every network here does to its input before the first layer.

A graph traced by ``torch.fx`` shows either as one node, provided that it is called as
``inputs.check_images(...)``: ``torch.fx.wrap`` replaces the name in this module only.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx


@fx.wrap
def check_images(
    x: Tensor,
    channels: int,
    size: int | None = None,
    n_support: int | None = None,
    least: int = 1,
) -> None:
    """Refuse what a network for ``[B, channels, size, size]`` images cannot read.

    Without ``size``, images of any shape with both sides ``least`` or more will do.

    Raises
    ------
    TypeError
        If ``x`` is not floating point.
    ValueError
        If ``x`` has another shape, or ``n_support`` is not in ``1..B``.
    """
    wanted = f"[B, {channels}, {size or 'H'}, {size or 'W'}]"
    if x.dim() != 4 or x.shape[1] != channels or (size and x.shape[2:] != (size, size)):
        raise ValueError(f"x must be images {wanted}, got shape {list(x.shape)}")
    if min(x.shape[2:]) < least:
        raise ValueError(f"x must be images of side {least} or more, got shape {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point, got {x.dtype}: pass uint8 images through tasks.as_float"
        )
    rows = x.shape[0]  # not len(x): in a trace with free sizes it would fix the number
    if n_support is not None and not 1 <= n_support <= rows:
        raise ValueError(f"n_support must be None or in 1..{rows} (rows of x), got {n_support}")


@fx.wrap
def prefer_channels_last(x: Tensor) -> Tensor:
    """``x`` laid out with its channels last on a CPU, where convolutions are faster that way.

    Later layers keep the layout. The copy also does what ``contiguous(memory_format=...)``
    does not: it works for one channel, where both layouts count as contiguous, and in ``vmap``.
    """
    if x.device.type != "cpu":
        return x
    rows_last = x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return rows_last.permute(0, 3, 1, 2)
