"""Normalization in few-shot learning: whose statistics a query image is judged by."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.checks import has_values

NORMS = ("batch", "support", "group", "none")


class TaskBatchNorm2d(nn.Module):
    """Batch normalization that keeps no running statistics and has no evaluation mode.

    ``y = weight · (x - mean) / sqrt(var + eps) + bias`` per channel, with the mean and the
    biased variance taken over the pixels of

    * all rows (``n_support=None``), as in the MAML paper: the result for a query image then
      depends on the query images that came with it (a *transductive* number), or
    * the first ``n_support`` rows, the task's support set: every query image is classified
      alone (an *inductive* number), as it must be once the network is deployed.

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
_FUSED = (torch.float32, torch.float64)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(var + eps)`` of each channel, ``[C]``; two passes, for accuracy."""
    mean = x.mean(_PIXELS)
    centered = _minus(x, mean)
    # Where no derivative will ask for it, in place: memory traffic is what takes the time.
    squares = centered.square() if torch.is_grad_enabled() else centered.mul_(centered)
    return mean, torch.rsqrt(squares.mean(_PIXELS) + eps)


def _minus(x: Tensor, shift: Tensor) -> Tensor:
    return x - shift.view(-1, 1, 1)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale · x + shift`` in one pass over ``x``; the shift is per channel or per pixel."""
    shift = shift.view(-1, 1, 1) if shift.ndim == 1 else shift
    return torch.addcmul(shift, x, scale.view(-1, 1, 1))


class _BatchNorm(torch.autograd.Function):
    """Batch normalization by the statistics of all rows, exact to any order.

    ``F.batch_norm`` sums naively where channels come last: in float32 its statistics are off
    by 1e-5, enough to flip maxima of later poolings, and its second derivative under ``vmap``
    is wrong.
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
        return *_BatchNormGradient.apply(grad, *ctx.saved_tensors, ctx.eps), None


class _BatchNormGradient(torch.autograd.Function):
    """The derivative of :class:`_BatchNorm`, and its own derivative in closed form.

    Recorded operation by operation, the latter would pass over the images, and keep them,
    twice as often. With ``z = (x - mean) r``, ``r = 1 / sqrt(var + eps)``, ``<.>`` the mean over
    pixels, P pixels and the incoming gradient g, the derivative is

    ``by_x = w r (g - <g> - <gz> z),  by_weight = P <gz>,  by_bias = P <g>``.

    PyTorch's fused kernel computes it on a CPU, nearly as accurately, from accurate statistics.

    For gradients u, p, q with respect to these three, and ``k = p - w r <uz>``,

    ``by_g = w r (u - <u>) + k z + q,``
    ``by_w = P r D`` with ``D = <ug> - <u><g> - <uz><gz>,``
    ``by_x = r (k (g - <g>) - w r <gz> (u - <u>) - z (k <gz> + w r (D - <uz><gz>)))``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if x.device.type == "cpu" and x.dtype in _FUSED and has_values(x):
            given = (None, None, mean, inverse, True, eps, [True, True, True])
            return torch.ops.aten.native_batch_norm_backward(grad, x, weight, *given)
        centered = _minus(x, mean)
        by_bias = grad.mean(_PIXELS)  # (C,)
        by_weight = (grad * centered).mean(_PIXELS) * inverse  # (C,)
        scale = weight * inverse
        by_x = _affine(
            centered, -scale * inverse * by_weight, _affine(grad, scale, -scale * by_bias)
        )
        pixels = x.numel() // x.shape[1]
        return by_x, by_weight * pixels, by_bias * pixels

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, r, by_weight, by_bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # the statistics are functions of x, too
            mean, r = _statistics(x, ctx.eps)
        pixels, centered, scale = x.numel() // x.shape[1], _minus(x, mean), weight * r
        g_mean, gz = by_bias / pixels, by_weight / pixels
        u_mean, uz = u.mean(_PIXELS), (u * centered).mean(_PIXELS) * r
        d = (u * g).mean(_PIXELS) - u_mean * g_mean - uz * gz
        k = p - scale * uz
        by_g = _affine(centered, r * k, _affine(u, scale, q - scale * u_mean))
        by_centered = -r * r * (k * gz + scale * (d - uz * gz))
        by_x = _affine(centered, by_centered, r * (scale * gz * u_mean - k * g_mean))
        by_x = _affine(u, -r * scale * gz, _affine(g, r * k, by_x))
        return by_g, by_x, pixels * r * d, None, None, None


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

    ``"batch"`` (transductive) and ``"support"`` (inductive) are the same :class:`TaskBatchNorm2d`
    (they differ in the ``n_support`` it is called with), ``"group"`` is a ``GroupNorm`` of groups
    of ``group_size`` channels, by default :func:`usual_group_size`, ``"none"`` the identity.

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


class _ReadWith(torch.autograd.Function):
    """``x`` itself, as if it depended on the others: who asks for their gradients gets its, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *others: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.others = len(inputs) - 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *[None] * ctx.others


def normalize(norm: nn.Module, x: Tensor, n_support: int | None) -> Tensor:
    """Call ``norm`` on ``x``; only :class:`TaskBatchNorm2d` asks which rows are the support."""
    if isinstance(norm, TaskBatchNorm2d):
        return norm(x, n_support)
    recorded = torch.is_grad_enabled() and not isinstance(x, torch.fx.Proxy)
    if isinstance(norm, nn.GroupNorm) and recorded:
        # where x has its channels last on a CPU, and its gradient is not asked for (of a frozen
        # convolution, or in steps of norms alone), PyTorch's (2.13) backward ends the process
        x = _ReadWith.apply(x, *norm.parameters())
    return norm(x)
