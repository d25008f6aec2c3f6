"""How much of a channel-gated network its images need, counted while it is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.gating.counts import active_macs
from metalearn_tut.gating.networks import ChannelGated
from metalearn_tut.learners.learner import Learner
from metalearn_tut.tasks.task import as_float


def is_gated(learner: Learner) -> bool:
    """Whether a learner's network chooses filters image by image."""
    return isinstance(getattr(learner, "model", None), ChannelGated)


@torch.no_grad()
def active_share(network: ChannelGated, x: Tensor) -> Tensor:
    """Multiply-adds that each image needs, as a share of those with every filter open.

    :func:`~metalearn_tut.gating.active_macs` over its value at all filters open, which is
    :func:`~metalearn_tut.evaluation.cost.macs`; the gates' own count in both.

    Parameters
    ----------
    network : ChannelGatedConv4 or ChannelGatedResNet12
        Adapted and deployed.
    x : Tensor [B, C, H, W]
        ``uint8`` images or floating ones.

    Returns
    -------
    Tensor [B] of float64, in (0, 1]

    Examples
    --------
    >>> from metalearn_tut.gating import ChannelGatedConv4
    >>> from metalearn_tut.models import Conv4
    >>> network = ChannelGatedConv4(Conv4(1, ways=5, width=8, norm="none"), open_bias=9.0)
    >>> active_share(network, torch.rand(2, 1, 28, 28))
    tensor([1., 1.], dtype=torch.float64)
    """
    like = next(network.parameters())
    x = as_float(x.to(like.device), like.dtype)
    masks, shape = network.masks(x), x.shape[1:]
    every = [torch.ones_like(mask[:1]) for mask in masks]
    return active_macs(network, masks, shape).double() / active_macs(network, every, shape).double()


class Watched:
    """A gated learner whose multiply-adds are counted when its adapted networks are called.

    It stands for the learner in :func:`metalearn_tut.evaluation.evaluate`.

    Parameters
    ----------
    learner : Learner
        With a gated network, whose predictors can be deployed.

    Attributes
    ----------
    shares : list of float
        Of each call, the mean over its images of :func:`active_share`: that of the network as
        it is deployed, where each image stands alone.
    """

    def __init__(self, learner: Learner) -> None:
        self.unwatched, self.shares = learner, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unwatched, name)

    def adapt(
        self, support_x: Tensor, support_y: Tensor, **options: Any
    ) -> Callable[[Tensor], Tensor]:
        """The learner's own, and counted."""
        predict = self.unwatched.adapt(support_x, support_y, **options)

        def counted(x: Tensor) -> Tensor:
            self.shares.append(active_share(predict.deploy(), x).mean().item())
            return predict(x)

        return counted
