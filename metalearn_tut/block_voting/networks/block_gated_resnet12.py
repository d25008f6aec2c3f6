"""A ResNet-12 with gates, for few-shot tasks. Ours: the paper prunes ordinary classifiers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.networks.block_gate import BlockGate
from metalearn_tut.models import inputs
from metalearn_tut.models.mode import any_frozen
from metalearn_tut.models.resnet12 import ResNet12, ShortcutBlock


class BlockGatedResNet12(ResNet12):
    """A ResNet-12 whose blocks are masked by gates, image by image.

    ``leaky_relu(pool(S(x) + m · F(x)))``, m the mark of the gate that reads the block's input.
    Every block changes the shape, so a mask of 0 does not leave the identity but the 1×1
    shortcut S with its norm: a pruned block costs about a thirtieth. The first block has no
    gate. Gates are of the kind ``"alone"``; they are parameters like all others, meta-learned
    and then adapted to each task by the inner loop.

    Parameters
    ----------
    network : ResNet12
        Fresh or trained; it is copied.

    Attributes
    ----------
    gates : nn.ModuleDict
        By block number.

    Raises
    ------
    TypeError
        If ``network`` is no ResNet12, or has gates already.

    Examples
    --------
    >>> gated = BlockGatedResNet12(ResNet12(ways=5, widths=(8, 8, 16, 16)))
    >>> gated.marks(torch.rand(3, 3, 32, 32)).shape, gated.candidates
    (torch.Size([3, 4]), (1, 2, 3))
    """

    def __init__(self, network: ResNet12) -> None:
        if type(network) is not ResNet12:
            raise TypeError(f"network must be a ResNet12, got {type(network).__name__}")
        settings = network.widths, network.in_channels, network.norm, network.inner
        super().__init__(network.ways, *settings)
        self.blocks, self.head = copy.deepcopy(network.blocks), copy.deepcopy(network.head)
        self.gates = nn.ModuleDict()
        for i, block in enumerate(self.blocks):
            if i and not isinstance(block, ShortcutBlock):
                self.gates[str(i)] = BlockGate("alone", block.shortcut.in_channels)
        self.gates.to(network.head.weight)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Blocks that may still be pruned: those with a gate, of which nothing is frozen."""
        return tuple(n for n in map(int, self.gates) if not any_frozen(self.blocks[n]))

    def prune(self, block: int) -> None:
        """Leave nothing of this block but its shortcut; its gate goes, too.

        Raises
        ------
        ValueError
            If it is not one of the ``candidates``.
        """
        if block not in self.candidates:
            raise ValueError(f"block {block} cannot be pruned; these can: {self.candidates}")
        self.blocks[block] = ShortcutBlock(self.blocks[block])
        del self.gates[str(block)]

    def ungated(self) -> ResNet12:
        """A copy without gates, all masks 1; pruned blocks stay pruned."""
        with torch.device("meta"):  # draws no weights: the layers are these
            plain = ResNet12(self.ways, self.widths, self.in_channels, self.norm, self.inner)
        plain.blocks, plain.head = copy.deepcopy((self.blocks, self.head))
        plain.training = self.training
        return plain

    def _run(self, x: Tensor, n_support: int | None) -> tuple[Tensor, Tensor]:
        """Features ``[B, widths[-1]]`` and marks ``[B, 4]``."""
        inputs.check_images(x, self.in_channels, n_support=n_support, least=16)
        x = inputs.prefer_channels_last(x)
        marks = []
        for i, block in enumerate(self.blocks):
            if str(i) in self.gates:
                mark = self.gates[str(i)](x)
                x = block(x, n_support, mark)
            else:
                # len(x) would fix the batch size of an exported graph
                mark = x.new_full((x.shape[0], 1, 1, 1), not isinstance(block, ShortcutBlock))
                x = block(x, n_support)
            marks.append(mark)
        return x.mean((2, 3)), torch.cat(marks, 1).flatten(1)

    def embed(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Features ``[B, widths[-1]]`` of the images ``x [B, C, H, W]``."""
        return self._run(x, n_support)[0]

    def marks(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """The soft marks ``[B, 4]``: 1 where there is no gate, 0 where the block is pruned."""
        return self._run(x, n_support)[1]
