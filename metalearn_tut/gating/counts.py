"""The multiply-adds that are left of a gated network for each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metalearn_tut.evaluation.cost.counts import layer_macs
from metalearn_tut.gating.networks import ChannelGated


def active_macs(
    network: ChannelGated, masks: Sequence[Tensor], input_shape: Sequence[int]
) -> Tensor:
    """Multiply-adds for each image when closed filters are left out, gates included.

    ``sum_l k_l² · (open inputs) · (open outputs) · H_l W_l``, and all that has no gate, and for
    each gate ``C_in · hidden + hidden · C_out``. All open, that is
    :func:`~metalearn_tut.evaluation.cost.macs` of the network: those of the one without gates,
    and the gates'. :func:`~metalearn_tut.gating.skip_each` does so many multiply-adds (a layer
    closed altogether excepted: it still computes a filter).

    Parameters
    ----------
    network : ChannelGatedConv4 or ChannelGatedResNet12
    masks : sequence of Tensor [B, C_l]
        ``network.masks(x)``; what is not 0 is open.
    input_shape : sequence of int
        Shape of one image.

    Returns
    -------
    Tensor [B] of int64

    Examples
    --------
    >>> from metalearn_tut.gating import ChannelGatedConv4
    >>> from metalearn_tut.models import Conv4
    >>> from metalearn_tut.evaluation.cost import macs
    >>> network, x = ChannelGatedConv4(Conv4(1, ways=5, width=8)), torch.rand(3, 1, 28, 28)
    >>> active = active_macs(network, network.masks(x, gate_mode="closed"), x.shape[1:])
    >>> active.tolist(), macs(network, x.shape[1:])
    ([912, 912, 912], 203704)
    """
    shapes = [list(mask.shape) for mask in masks]
    if not shapes or shapes != [[*shapes[0][:1], size] for size in network.sizes]:
        raise ValueError(
            f"masks must be one [B, C] for each gate, C being {network.sizes}, got shapes {shapes}"
        )
    counts = layer_macs(network, input_shape, {})
    total = masks[0].new_full((len(masks[0]),), sum(counts.values()), dtype=torch.int64)
    for name, gates in network.wires.items():
        here = full = counts[network.get_submodule(name)]
        for gate in gates:
            if gate is not None:
                here = here * masks[gate].count_nonzero(1) // network.sizes[gate]
        total = total + here - full
    return total
