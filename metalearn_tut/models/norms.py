"""Normalization in few-shot learning: whose statistics a query image is judged by."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

NORMS = ("batch", "support", "group", "none")


class TaskBatchNorm2d(nn.Module):
    """Batch normalization that keeps no running statistics and has no evaluation mode.

    ``y = weight · (x - mean) / sqrt(var + eps) + bias`` per channel, with the mean and the
    biased variance taken over the pixels of

    * all rows (``n_support=None``), as in the MAML paper: the result for a query image then
      depends on the query images that came with it (a *transductive* number), or
    * the first ``n_support`` rows, the task's support set: every query image is classified
      alone, as it must be once the network is deployed.

    Running statistics would mix tasks, and ``eval()`` would silently switch to them: this
    layer does the same in both modes.

    Parameters
    ----------
    channels : int
        Number of channels C.
    eps : float, default 1e-5
        Added to the variance.

    Examples
    --------
    >>> x = torch.tensor([0.0, 2.0, 9.0]).view(3, 1, 1, 1)
    >>> TaskBatchNorm2d(1, eps=0.0)(x, n_support=2).flatten().tolist()
    [-1.0, 1.0, 8.0]
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this layer."""
        return f"{self.channels}, eps={self.eps}"

    def forward(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Normalize ``x [B, C, H, W]`` by all of its rows, or by its first ``n_support``."""
        return task_batch_norm(x, self.weight, self.bias, n_support, self.eps)


@torch.fx.wrap  # one node in a traced graph
def task_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, n_support: int | None, eps: float
) -> Tensor:
    """What :class:`TaskBatchNorm2d` computes, as a function of its weight and bias ``[C]``."""
    if n_support is None:
        return _BatchNorm.apply(x, weight, bias, eps)[0]
    mean, inverse = _statistics(x[:n_support], eps)
    scale = weight * inverse  # (C,)
    return _affine(x, scale, bias - mean * scale)


_PIXELS = (0, 2, 3)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(var + eps)`` of each channel, ``[C]``; two passes, for accuracy."""
    mean = x.mean(_PIXELS)
    return mean, torch.rsqrt((x - mean.view(-1, 1, 1)).square().mean(_PIXELS) + eps)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale · x + shift`` in one pass over ``x``; the shift is per channel or per pixel."""
    shift = shift.view(-1, 1, 1) if shift.ndim == 1 else shift
    return torch.addcmul(shift, x, scale.view(-1, 1, 1))


class _BatchNorm(torch.autograd.Function):
    """Batch normalization by the statistics of all rows, exact to any order.

    ``F.batch_norm`` sums naively where channels come last: in float32 its statistics are off
    by 1e-5, enough to flip maxima of later poolings, and its second derivative under ``vmap``
    is wrong. Here the backward pass is plain arithmetic, so it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, inverse = _statistics(x, eps)
        scale = weight * inverse
        return _affine(x, scale, bias - mean * scale), mean, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, _, ctx.eps = inputs
        _, mean, inverse = output
        ctx.mark_non_differentiable(mean, inverse)
        ctx.save_for_backward(x, weight, mean, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # the statistics are functions of x, too
            mean, inverse = _statistics(x, ctx.eps)
        centered = x - mean.view(-1, 1, 1)
        by_bias = grad.mean(_PIXELS)  # (C,)
        by_weight = (grad * centered).mean(_PIXELS) * inverse  # (C,)
        scale = weight * inverse
        rest = _affine(grad, scale, -scale * by_bias)
        by_x = _affine(centered, -scale * inverse * by_weight, rest)
        pixels = x.numel() // x.shape[1]
        return by_x, by_weight * pixels, by_bias * pixels, None


def usual_group_size(channels: int) -> int:
    """Channels of a group when there are 8 groups, or 4, 2 or 1 where 8 do not divide them.

    Examples
    --------
    >>> usual_group_size(32), usual_group_size(12), usual_group_size(7)
    (4, 3, 7)
    """
    return channels // math.gcd(8, channels)


def make_norm(norm: str, channels: int, group_size: int | None = None) -> nn.Module:
    """The layer that one of :data:`NORMS` stands for.

    ``"batch"`` and ``"support"`` are the same :class:`TaskBatchNorm2d` (they differ in the
    ``n_support`` it is called with), ``"group"`` is a ``GroupNorm`` of groups of
    ``group_size`` channels, by default :func:`usual_group_size`, ``"none"`` the identity.

    Raises
    ------
    ValueError
        If ``norm`` is not one of :data:`NORMS`, or groups of ``group_size`` do not add up to
        ``channels``.
    """
    if norm in ("batch", "support"):
        return TaskBatchNorm2d(channels)
    if norm == "group":
        size = usual_group_size(channels) if group_size is None else group_size
        if size < 1 or channels % size:
            raise ValueError(f"group_size must divide the {channels} channels, got {group_size}")
        return nn.GroupNorm(channels // size, channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")


def normalize(norm: nn.Module, x: Tensor, n_support: int | None) -> Tensor:
    """Call ``norm`` on ``x``; only :class:`TaskBatchNorm2d` asks which rows are the support."""
    return norm(x, n_support) if isinstance(norm, TaskBatchNorm2d) else norm(x)
