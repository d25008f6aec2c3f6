"""Networks that choose, for each image, which filters to compute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.gating.channel_gate import TAU, ChannelGate, GatedPass, GateMode
from metalearn_tut.models import inputs
from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.models.norms import normalize
from metalearn_tut.models.random_masks import logistic_noise
from metalearn_tut.models.resnet12 import _SLOPE, ResNet12, ShortcutBlock

After = Callable[[Tensor], Tensor]


class DensePass(GatedPass):
    """Compute every filter, then multiply it by its mask: what is trained."""

    def layer(self, conv: nn.Conv2d, norm: nn.Module, after: After, x: Tensor) -> Tensor:
        """The masked output of one gated layer.

        The mask comes last: before a ReLU a closed filter would get no gradient.
        """
        mask = self.mask(x)
        return mask[:, :, None, None] * after(normalize(norm, conv(x), self.n_support))

    def join(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """The sum that ends a residual block."""
        return branch + shortcut

    def head(self, head: nn.Linear, features: Tensor) -> Tensor:
        """Logits from features."""
        return head(features)


class ChannelGated(FewShotNetwork):
    """What the gated networks share; subclasses say which network and where its gates are.

    A gated network is made of the blocks and the head of a plain one, under the same names, and
    of ``gates``. ``plain`` is the kind of the plain one, ``options`` are what it was built with.
    """

    plain: ClassVar[type[FewShotNetwork]]
    options: ClassVar[tuple[str, ...]]

    def __init__(
        self, network: FewShotNetwork, hidden: int = 16, open_bias: float = 2.0, tau: float = TAU
    ) -> None:
        if type(network) is not self.plain:
            raise TypeError(
                f"network must be a {self.plain.__name__}, got {type(network).__name__}"
            )
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        with torch.device("meta"):  # draws no weights: the head is the network's
            super().__init__(network.head.in_features, network.ways, network.norm)
        for name in self.options:
            setattr(self, name, getattr(network, name))
        self.blocks, self.head = copy.deepcopy((network.blocks, network.head))
        self.tau, self.training = tau, network.training
        gated = [self.get_submodule(n) for n, (_, gate) in self.wires.items() if gate is not None]
        self.gates = nn.ModuleList(
            ChannelGate(conv.in_channels, conv.out_channels, hidden, open_bias) for conv in gated
        )
        self.gates.to(self.head.weight)

    @property
    def sizes(self) -> list[int]:
        """The number of filters that each gate opens and closes."""
        return [gate.outer.out_features for gate in self.gates]

    def noise(self, rows: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Logistic noise for ``rows`` images, ``[rows, C_l]`` for each gate."""
        like = self.head.weight
        return [logistic_noise(like.new_empty(rows, size), generator) for size in self.sizes]

    def ungated(self) -> FewShotNetwork:
        """A copy without gates: all filters open."""
        options = {name: getattr(self, name) for name in self.options}
        with torch.device("meta"):  # draws no weights: the layers are these
            network = self.plain(ways=self.ways, norm=self.norm, **options)
        network.blocks, network.head = copy.deepcopy((self.blocks, self.head))
        network.training = self.training
        return network

    @property
    def wires(self) -> dict[str, tuple[int | None, int | None]]:
        """Layer name -> the gates whose masks its inputs and its outputs have, or None."""
        raise NotImplementedError(f"{type(self).__name__} must define wires")

    def flow(self, x: Tensor, run: Any) -> Tensor:
        """Features ``[B, D]`` of ``x``, each gated layer computed by ``run``."""
        raise NotImplementedError(f"{type(self).__name__} must define flow(x, run)")

    def run(
        self, x: Tensor, n_support: int | None = None, **gating: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits ``[B, ways]`` and the masks ``[B, C_l]``; ``gating`` as for a call."""
        run = DensePass(self.gates, tau=self.tau, n_support=n_support, **gating)
        return run.head(self.head, self.flow(x, run)), run.masks

    def masks(self, x: Tensor, n_support: int | None = None, **gating: Any) -> list[Tensor]:
        """The masks ``[B, C_l]`` alone, in the order of the gates."""
        return self.run(x, n_support, **gating)[1]

    def embed(self, x: Tensor, n_support: int | None = None, **gating: Any) -> Tensor:
        """Features ``[B, D]`` of the images ``x``."""
        run = DensePass(self.gates, tau=self.tau, n_support=n_support, **gating)
        return self.flow(x, run)

    def forward(
        self,
        x: Tensor,
        n_support: int | None = None,
        *,
        gate_mode: GateMode = "learned",
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Logits ``[B, ways]`` of the images ``x``.

        Parameters
        ----------
        x : Tensor [B, C, H, W]
        n_support : int, optional
            As for every few-shot network.
        gate_mode : {"learned", "soft", "open", "closed"} or sequence of masks
            By the gates; by the gates' relaxation, for finite differences; all filters or
            none, whatever the gates say; or a mask ``[C_l]`` or ``[B, C_l]`` for each gate.
        noise : sequence of Tensor [B, C_l], optional
            From :meth:`noise`, in training. Without it gates are deterministic, in both
            modes: a filter is open if its logit is above 0.
        """
        return self.run(x, n_support, gate_mode=gate_mode, noise=noise)[0]


class ChannelGatedConv4(ChannelGated):
    """A Conv4 with a gate at each of its four convolutions.

    ``x_{l+1} = g_l · relu(pool(norm(W_l * x_l)))``, the mask ``g_l`` of an image computed from
    ``x_l`` by a :class:`~metalearn_tut.gating.ChannelGate`.

    Parameters
    ----------
    network : Conv4
        Fresh or trained; it is copied.
    hidden, open_bias
        As for :class:`~metalearn_tut.gating.ChannelGate`.
    tau : float, default 2/3
        As for :func:`~metalearn_tut.gating.channel_mask`.

    Raises
    ------
    TypeError, ValueError
        If ``network`` is no Conv4, or a number out of range.

    Notes
    -----
    With all gates open the logits are bitwise those of ``network``. That MetaGater's gates are
    of this kind is our reconstruction: the design is that of the conditional channel gating
    which its title refers to.

    References
    ----------
    Lin et al., *MetaGater: Fast Learning of Conditional Channel Gated Networks via Federated
    Meta-Learning*, arXiv:2011.12511; Abati et al., *Conditional Channel Gated Networks for
    Task-Aware Continual Learning*, 2020; Bejnordi et al., *Batch-Shaping for Learning
    Conditional Channel Gated Networks*, 2020.

    Examples
    --------
    >>> gated = ChannelGatedConv4(Conv4(in_channels=1, ways=5, width=8))
    >>> x = torch.rand(3, 1, 28, 28)
    >>> gated(x).shape, [tuple(mask.shape) for mask in gated.masks(x)]
    (torch.Size([3, 5]), [(3, 8), (3, 8), (3, 8), (3, 8)])
    """

    plain = Conv4
    options = ("in_channels", "width", "image_size", "group_size")

    @property
    def wires(self) -> dict[str, tuple[int | None, int | None]]:
        """Layer name -> the gates whose masks its inputs and its outputs have, or None."""
        convs = {f"blocks.{i}.conv": (i - 1 if i else None, i) for i in range(4)}
        return {**convs, "head": (3, None)}

    def flow(self, x: Tensor, run: Any) -> Tensor:
        """Features ``[B, D]`` of ``x``, each block computed by ``run``."""
        inputs.check_images(x, self.in_channels, self.image_size, run.n_support)
        x = inputs.prefer_channels_last(x)
        for block in self.blocks:
            x = run.layer(block.conv, block.norm, _pool_relu, x)
        return x.flatten(1)


class ChannelGatedResNet12(ChannelGated):
    """A ResNet-12 with a gate at each of the three convolutions of its blocks.

    The masks multiply what the next convolution of the block reads and, after the third, what
    is added to the shortcut: with all gates closed the shortcuts still carry the image.

    Parameters
    ----------
    network : ResNet12
        Fresh or trained; it is copied.
    hidden, open_bias, tau
        As for :class:`ChannelGatedConv4`.

    Raises
    ------
    TypeError, ValueError
        If ``network`` is no ResNet12, or a number out of range.

    Examples
    --------
    >>> gated = ChannelGatedResNet12(ResNet12(ways=5, widths=(8, 8, 16, 16)))
    >>> gated.sizes
    [8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16]
    >>> gated(torch.rand(3, 3, 32, 32)).shape
    torch.Size([3, 5])
    """

    plain = ResNet12
    options = ("in_channels", "widths", "inner")

    def __init__(
        self, network: ResNet12, hidden: int = 16, open_bias: float = 2.0, tau: float = TAU
    ) -> None:
        if any(isinstance(part, ShortcutBlock) for part in network.modules()):
            raise ValueError("network has pruned blocks, which have no filters to gate")
        super().__init__(network, hidden, open_bias, tau)

    @property
    def wires(self) -> dict[str, tuple[int | None, int | None]]:
        """Layer name -> the gates whose masks its inputs and its outputs have, or None."""
        places = ((b, i, 3 * b + i) for b in range(4) for i in range(3))
        return {f"blocks.{b}.convs.{i}": (g - 1 if i else None, g) for b, i, g in places}

    def flow(self, x: Tensor, run: Any) -> Tensor:
        """Features ``[B, widths[-1]]`` of ``x``, each gated layer computed by ``run``."""
        inputs.check_images(x, self.in_channels, n_support=run.n_support, least=16)
        x = inputs.prefer_channels_last(x)
        for block in self.blocks:
            shortcut = normalize(block.shortcut_norm, block.shortcut(x), run.n_support)
            for conv, norm, after in zip(block.convs, block.norms, _AFTER, strict=True):
                x = run.layer(conv, norm, after, x)
            x = _leaky(F.max_pool2d(run.join(x, shortcut), 2))
        return x.mean((2, 3))


def _pool_relu(x: Tensor) -> Tensor:
    return F.relu(F.max_pool2d(x, 2))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


def _same(x: Tensor) -> Tensor:
    return x


_AFTER = (_leaky, _leaky, _same)  # after each convolution of a residual block
