"""Inference that leaves closed filters out, where a mask would multiply them by zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.gating.channel_gate import GatedPass, GateMode
from metalearn_tut.gating.networks import After, ChannelGated


class SkippingPass(GatedPass):
    """Compute a filter if it is open for some row, from the channels that were computed.

    Attributes
    ----------
    present : Tensor of int64, or None
        Which channels the features hold now; None for all. The others are zero.
    """

    present: Tensor | None = None

    def layer(self, conv: nn.Conv2d, norm: nn.Module, after: After, x: Tensor) -> Tensor:
        """The masked output of one gated layer, without the channels that are closed."""
        mask = self.mask(x, self.present)  # (B, C)
        wanted = mask.any(0).nonzero().flatten()
        # Nothing open at all: one channel stands for all, multiplied by its mask of zero.
        shut = not len(wanted)
        wanted = wanted.new_zeros(1) if shut else wanted
        weight = conv.weight[wanted]
        weight = weight if self.present is None else weight[:, self.present]
        bias = None if conv.bias is None else conv.bias[wanted]
        x = after(_sliced(norm, F.conv2d(x, weight, bias, conv.stride, conv.padding), wanted))
        self.present = wanted
        if shut or len(mask) > 1 or not isinstance(self.gate_mode, str):
            x = mask[:, wanted, None, None] * x
        return x

    def join(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """The sum that ends a residual block: all channels are present again."""
        present, self.present = self.present, None
        return shortcut.index_add(1, present, branch)

    def head(self, head: nn.Linear, features: Tensor) -> Tensor:
        """Logits from the features of the channels present, each with its pixels."""
        if self.present is None:
            return head(features)
        pixels = features.shape[1] // len(self.present)
        columns = head.weight.unflatten(1, (-1, pixels))[:, self.present]
        return F.linear(features, columns.flatten(1), head.bias)


def _sliced(norm: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """The norm of the ``kept`` channels, if it can be computed from them alone."""
    if isinstance(norm, nn.Identity):
        return x
    if isinstance(norm, nn.BatchNorm2d) and not norm.training and norm.running_mean is not None:
        rest = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.batch_norm(x, *(part[kept] for part in rest), False, 0.0, norm.eps)
    if isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels:
        return F.group_norm(x, len(kept), norm.weight[kept], norm.bias[kept], norm.eps)
    raise ValueError(
        f"filters cannot be skipped in front of {norm}, which needs those that are closed, or "
        "other images: deploy the network, or build it with norm='none' or groups of 1"
    )


@torch.no_grad()
def skip(network: ChannelGated, x: Tensor, *, gate_mode: GateMode = "learned") -> Tensor:
    """Logits of a gated network, computed without the filters that no row of ``x`` opens.

    The same numbers as ``network(x)`` to rounding. A batch of images that open different
    filters computes all of them: sort such images into groups, or use :func:`skip_each`.

    Parameters
    ----------
    network : ChannelGated
        Deployed (:meth:`metalearn_tut.learners.Predictor.deploy`), or with a norm that reads
        each channel of each image alone.
    x : Tensor [B, C, H, W]
    gate_mode
        As for a call of the network, but for ``"soft"``.

    Returns
    -------
    Tensor [B, ways]

    Raises
    ------
    ValueError
        If a norm needs closed filters or other images.

    Examples
    --------
    >>> from metalearn_tut.gating import ChannelGatedConv4
    >>> from metalearn_tut.models import Conv4
    >>> network = ChannelGatedConv4(Conv4(1, ways=5, width=8, norm="none"), open_bias=0.0)
    >>> x = torch.rand(4, 1, 28, 28)
    >>> torch.allclose(skip(network, x), network(x), atol=1e-6)
    True
    """
    if gate_mode == "soft":
        raise ValueError("gate_mode='soft' leaves no filter out: use 'learned'")
    run = SkippingPass(network.gates, gate_mode, tau=network.tau)
    return run.head(network.head, network.flow(x, run))


def skip_each(network: ChannelGated, x: Tensor, *, gate_mode: str = "learned") -> Tensor:
    """The logits of :func:`skip`, one image at a time: each computes its own open filters only."""
    if not len(x):
        return skip(network, x, gate_mode=gate_mode)
    return torch.cat([skip(network, row, gate_mode=gate_mode) for row in x.split(1)])
