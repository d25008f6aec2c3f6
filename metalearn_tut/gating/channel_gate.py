"""Gates that say, for each image, which filters of a convolution are worth computing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.checks import check_choice, check_count
from metalearn_tut.models.random_masks import straight_through

TAU = 2 / 3
"""Temperature of the relaxation, that of published channel gates."""

GATE_MODES = ("learned", "soft", "open", "closed")
GateMode = str | Sequence[Tensor]
"""One of ``GATE_MODES``, or a mask ``[C]`` or ``[B, C]`` for each gate."""


class ChannelGate(nn.Module):
    """A small network from a layer's input to one logit for each of the layer's filters.

    ``u = W2 · relu(W1 · mean(x) + b1) + b2``, the mean over pixels.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the layer's input and output.
    hidden : int, default 16
        Width of the hidden layer.
    open_bias : float, default 2
        Where ``b2`` starts: gates open with probability ``s(2) = 0.88`` before they have
        learned anything.

    Raises
    ------
    ValueError
        If a number of channels or ``hidden`` is below 1.

    Examples
    --------
    >>> ChannelGate(8, 32)(torch.rand(4, 8, 14, 14)).shape
    torch.Size([4, 32])
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int = 16, open_bias: float = 2.0
    ) -> None:
        super().__init__()
        check_count(in_channels=in_channels, out_channels=out_channels, hidden=hidden)
        self.inner, self.outer = nn.Linear(in_channels, hidden), nn.Linear(hidden, out_channels)
        nn.init.constant_(self.outer.bias, open_bias)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Logits ``[B, C']`` from a layer's input ``x [B, C, H, W]``.

        With ``present``, ``x`` holds these channels only, and all others are zero.
        """
        pooled = x.mean((2, 3))
        if present is None:  # through the module, so that its multiply-adds can be counted
            hidden = self.inner(pooled)
        else:
            hidden = F.linear(pooled, self.inner.weight[:, present], self.inner.bias)
        return self.outer(F.relu(hidden))


def channel_mask(
    logits: Tensor, noise: Tensor | None = None, *, tau: float = TAU, soft: bool = False
) -> Tensor:
    """Which filters to compute: exactly 0 or 1, with the gradient of a relaxation.

    With noise ``e``, as in training: ``1[u + e >= 0]``, which is 1 with probability ``s(u)``
    whatever tau, if e is ``models.random_masks.logistic_noise``. Without, as
    in use: ``1[u > 0]``. The gradient of any order is that of ``s((u + e) / tau)``.

    Parameters
    ----------
    logits : Tensor [B, C]
    noise : Tensor [B, C], optional
    tau : float, default 2/3
        Temperature: the smaller, the closer the relaxation is to the mask.
    soft : bool, default False
        Return the relaxation itself, in (0, 1).

    Raises
    ------
    ValueError
        If ``tau`` is not positive and finite, or the noise has another shape than the logits.

    Examples
    --------
    >>> logits = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    >>> channel_mask(logits).tolist()
    [0.0, 0.0, 1.0]
    >>> channel_mask(logits, torch.zeros(3)).tolist()
    [0.0, 1.0, 1.0]
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be positive and finite, got {tau}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating-point numbers, got {logits.dtype}")
    if noise is not None and noise.shape != logits.shape:
        raise ValueError(
            f"noise must be of the logits' shape {list(logits.shape)}, got {list(noise.shape)}"
        )
    noisy = logits if noise is None else logits + noise
    relaxed = (noisy / tau).sigmoid()
    if soft:
        return relaxed
    return straight_through(noisy > 0 if noise is None else noisy >= 0, relaxed)


def open_share(masks: Sequence[Tensor]) -> Tensor:
    """The mean over gates of the share of filters that are open: R in [0, 1].

    ``R = 1/L sum_l mean_{b,c} g_l[b, c]``, differentiable in the masks ``[B, C_l]``.

    Examples
    --------
    >>> open_share([torch.tensor([[1.0, 0.0]]), torch.ones(1, 8)])
    tensor(0.7500)
    """
    if not len(masks) or not all(mask.numel() for mask in masks):
        raise ValueError("masks must be at least one, each of at least one filter")
    return torch.stack([mask.mean() for mask in masks]).mean()


class GatedPass:
    """One forward pass of a gated network: what the gates say, and that it is done.

    Parameters
    ----------
    gates : nn.ModuleList
        Of :class:`ChannelGate`.
    gate_mode, noise
        As for :meth:`ChannelGated.forward`.
    tau : float
    n_support : int, optional

    Attributes
    ----------
    masks : list of Tensor [B, C]
        Those of the gates passed so far.
    """

    def __init__(
        self,
        gates: nn.ModuleList,
        gate_mode: GateMode = "learned",
        noise: Sequence[Tensor] | None = None,
        tau: float = TAU,
        n_support: int | None = None,
    ) -> None:
        sizes = [gate.outer.out_features for gate in gates]
        if isinstance(gate_mode, str):
            check_choice("gate_mode", gate_mode, GATE_MODES)
        elif [mask.shape[-1] for mask in gate_mode] != sizes:
            raise ValueError(
                f"gate_mode must be one of {', '.join(map(repr, GATE_MODES))}, or a mask for each "
                f"gate, of {sizes} channels; got masks of {[mask.shape[-1] for mask in gate_mode]}"
            )
        if noise is not None and [part.shape[-1] for part in noise] != sizes:
            raise ValueError(
                f"noise must be one tensor for each gate, of {sizes} channels, "
                f"got {[part.shape[-1] for part in noise]}"
            )
        self.gates, self.gate_mode, self.noise, self.tau = gates, gate_mode, noise, tau
        self.n_support, self.masks = n_support, []

    def mask(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """The mask ``[B, C]`` of the next gate, whose layer reads ``x``."""
        i = len(self.masks)
        if not isinstance(self.gate_mode, str):
            mask = self.gate_mode[i].to(x).expand(x.shape[0], -1)  # not len(x): ONNX would fix it
        elif self.gate_mode in ("open", "closed"):
            size = self.gates[i].outer.out_features
            mask = x.new_full((x.shape[0], size), float(self.gate_mode == "open"))
        else:
            noise = None if self.noise is None else self.noise[i].to(x)
            logits = self.gates[i](x, present)
            mask = channel_mask(logits, noise, tau=self.tau, soft=self.gate_mode == "soft")
        self.masks.append(mask)
        return mask
