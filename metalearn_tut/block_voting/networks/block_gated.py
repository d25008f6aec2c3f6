"""A CIFAR ResNet whose blocks are weighed by gates, image by image."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.networks.block_gate import MIXINGS, BlockGate
from metalearn_tut.checks import check_choice
from metalearn_tut.models import inputs
from metalearn_tut.models.cifar_resnet import BasicBlock, CifarResNet
from metalearn_tut.models.mode import any_frozen
from metalearn_tut.models.random_masks import MASKINGS, mask_of


class BlockGated(nn.Module):
    """A CIFAR ResNet with a gate at its blocks.

    The gate of a block reads the output of the block before it, and its mark ``m`` in [0, 1]
    masks the block, ``S`` its shortcut and ``F`` its residual branch:

    ``m · relu(S(x) + F(x)) + (1 - m) · S(x)`` (SkipNet's mixing) or ``relu(S(x) + m · F(x))``
    (ConvNet-AIG's).

    They differ only for ``0 < m < 1``.

    Parameters
    ----------
    network : CifarResNet
        Fresh, trained, or shortened already; it is copied.
    gate : {"soft1", "soft2", "pooled", "alone"}
        See :class:`~metalearn_tut.block_voting.BlockGate`.
    gates : nn.ModuleDict, optional
        Gates trained with such a network, to copy in place of new ones.
    masking : {"soft", "hard", "gumbel"}
        What becomes of the marks: themselves; 0 or 1; in training 0 or 1 at random, with the
        mark as probability (then 0 or 1 by the mark in evaluation).
    mixing : {"skipnet", "aig"}
        The formula above.
    gate_first : bool, default False
        Give the first block a gate, too, that reads the stem's output. In SkipNet it has none,
        and so can never be pruned.
    gate_transitions : bool, default True
        Give gates to the blocks that change the shape. These blocks are never pruned.

    Attributes
    ----------
    network : CifarResNet
        The same network without gates; it shares the weights.
    gates : nn.ModuleDict
        By block number.
    pruned : set of int
        Blocks that are skipped. It is part of ``state_dict()``.

    Raises
    ------
    TypeError
        If ``network`` is no CifarResNet.
    ValueError
        If a choice is unknown, or the ``gates`` belong to another network.

    Notes
    -----
    Blocks go by their number in the whole network, from 0, also when others are gone. That ABP
    uses SkipNet's gates is second-hand; the place of the gate and the first block without one
    are SkipNet's.

    References
    ----------
    Si, Qi and Song, *Automatic Block-wise Pruning with Auxiliary Gating Structures for Deep
    Convolutional Neural Networks*, arXiv:2205.03602.

    Examples
    --------
    >>> gated = BlockGated(CifarResNet(20))
    >>> gated(torch.rand(2, 3, 32, 32)).shape, gated.marks(torch.rand(2, 3, 32, 32)).shape
    (torch.Size([2, 10]), torch.Size([2, 9]))
    >>> gated.candidates
    (1, 2, 4, 5, 7, 8)
    """

    def __init__(
        self,
        network: CifarResNet,
        gate: str = "soft1",
        *,
        gates: nn.ModuleDict | None = None,
        masking: str = "soft",
        mixing: str = "skipnet",
        gate_first: bool = False,
        gate_transitions: bool = True,
    ) -> None:
        if not isinstance(network, CifarResNet):
            raise TypeError(f"network must be a CifarResNet, got {type(network).__name__}")
        check_choice("masking", masking, MASKINGS)
        check_choice("mixing", mixing, MIXINGS)
        super().__init__()
        self.network = copy.deepcopy(network)
        self.masking, self.mixing, self.classes = masking, mixing, network.classes
        self.pruned: set[int] = set()
        channels = {
            name: block.conv1.in_channels
            for i, (name, block) in enumerate(self.network.blocks.named_children())
            if (i or gate_first) and (block.stride == 1 or gate_transitions)
        }
        if gates is not None:
            _check_gates(gates, channels)
            self.gates = copy.deepcopy(gates)
        else:
            self.gates = nn.ModuleDict({n: BlockGate(gate, c) for n, c in channels.items()})
            self.gates.to(network.head.weight)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all N blocks: what the columns of marks and masks stand for."""
        return tuple(int(name) for name, _ in self.network.blocks.named_children())

    @property
    def candidates(self) -> tuple[int, ...]:
        """Blocks that may still be pruned: gated, not frozen, not pruned, of the same shape."""
        blocks = self.network.blocks.named_children()
        gated = ((int(name), block) for name, block in blocks if name in self.gates)
        plain = (n for n, block in gated if block.stride == 1 and not any_frozen(block))
        return tuple(number for number in plain if number not in self.pruned)

    def prune(self, block: int) -> None:
        """Skip this block from now on: its mask is 0.

        Raises
        ------
        ValueError
            If it is not one of the ``candidates``.
        """
        if block not in self.candidates:
            raise ValueError(f"block {block} cannot be pruned; these can: {self.candidates}")
        self.pruned.add(block)

    def get_extra_state(self) -> Tensor:
        """The pruned blocks, for ``state_dict``."""
        return torch.tensor(sorted(self.pruned), dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the pruned blocks from a ``state_dict``."""
        self.pruned = set(state.tolist())

    def run(self, x: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits ``[B, classes]`` and marks ``[B, N]`` of images ``x``; see the two below."""
        inputs.check_images(x, 3)
        x = self.network.stem(inputs.prefer_channels_last(x))
        marks = []
        for i, (name, block) in enumerate(self.network.blocks.named_children()):
            mark = x.new_ones(x.shape[0], 1, 1, 1)  # len(x) would be fixed in an exported graph
            if masks is not None:
                mark = mark * masks[..., i].reshape(-1, 1, 1, 1)
                x = mix(block, x, mark, self.mixing)
            elif int(name) in self.pruned:
                mark = torch.zeros_like(mark)
                x = block.shortcut(x)
            elif name in self.gates:
                mark = self.gates[name](x)
                x = mix(block, x, mask_of(mark, self.masking, self.training), self.mixing)
            else:
                x = block(x)
            marks.append(mark)
        return self.network.head(x.mean((2, 3))), torch.cat(marks, 1).flatten(1)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits ``[B, classes]`` of the images ``x [B, 3, H, W]``.

        With ``masks [N]`` or ``[B, N]``, one for each block, these stand in for the gates':
        0 leaves a block out (also one that changes the shape), 1 is the whole block.
        """
        return self.run(x, masks)[0]

    def marks(self, x: Tensor) -> Tensor:
        """The soft marks ``[B, N]``: 1 where there is no gate, 0 where the block is pruned."""
        return self.run(x)[1]


def mix(block: BasicBlock, x: Tensor, mask: Tensor, mixing: str) -> Tensor:
    """The output of ``block`` under a mask ``[B, 1, 1, 1]``."""
    if mixing == "skipnet":
        return mask * block(x) + (1 - mask) * block.shortcut(x)
    return torch.relu(block.shortcut(x) + mask * block.residual(x))


def _check_gates(gates: nn.ModuleDict, channels: dict[str, int]) -> None:
    found = {name: gate.channels for name, gate in gates.items()}
    for name in sorted(found.keys() | channels.keys(), key=int):
        if found.get(name) != channels.get(name):
            given, needed = (
                f"a gate for {c[name]} channels" if name in c else "no gate"
                for c in (found, channels)
            )
            raise ValueError(
                f"gates of another network: block {name} has {given}, "
                f"where this network needs {needed}"
            )
