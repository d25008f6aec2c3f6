"""A residual network whose blocks are weighed by gates, image by image."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.networks.block_gate import BlockGate
from metalearn_tut.block_voting.networks.blocks import (
    MIXINGS,
    InPlace,
    bypass,
    input_channels,
    may_go,
    mix,
    named_blocks,
    with_modules,
)
from metalearn_tut.checks import check_choice
from metalearn_tut.models.random_masks import MASKINGS, mask_of


class BlockGated(nn.Module):
    """A residual network with a gate at its blocks: a CIFAR ResNet, or one whose blocks you name.

    The gate of a block reads the output of the block before it, and its mark ``m`` in [0, 1]
    masks the block, ``S`` its shortcut and ``F`` its residual branch:

    ``m · relu(S(x) + F(x)) + (1 - m) · S(x)`` (SkipNet's mixing) or ``relu(S(x) + m · F(x))``
    (ConvNet-AIG's).

    They differ only for ``0 < m < 1``.

    Parameters
    ----------
    network : CifarResNet or other nn.Module
        From images to logits. Fresh, trained, or shortened already; it is copied.
    gate : {"soft1", "soft2", "pooled", "alone"}
        See :class:`~metalearn_tut.block_voting.BlockGate`.
    blocks : sequence of str, optional
        Names of the blocks that get a gate, in their order, as ``network.named_modules()`` has
        them; needed for any network but a ``CifarResNet``. Each is called once in a pass, reads
        what its first convolution reads, and gives the shape that it is given, unless it has a
        method ``shortcut`` to say what is left of ``x`` without it.
    masking : {"soft", "hard", "gumbel"}
        What becomes of the marks: themselves; 0 or 1; in training 0 or 1 at random, with the
        mark as probability (then 0 or 1 by the mark in evaluation).
    mixing : {"skipnet", "aig"}
        The formula above; the second needs blocks with methods ``shortcut`` and ``residual``.
    gate_first : bool, default False
        Give the first block of a ``CifarResNet`` a gate, too, that reads the stem's output. In
        SkipNet it has none, and so can never be pruned.
    gate_transitions : bool, default True
        Give gates to its blocks that change the shape. These blocks are never pruned.

    Attributes
    ----------
    network : CifarResNet
        The same network without gates; it shares the weights.
    names : dict of int to str
        Block number -> name.
    gates : nn.ModuleDict
        By block number.
    pruned : set of int
        Blocks that are skipped. It is part of ``state_dict()``.

    Raises
    ------
    TypeError
        If the blocks of ``network`` are not known, and not named.
    ValueError
        If a choice or a block is unknown.

    Notes
    -----
    Blocks go by their number in the whole network, from 0, also when others are gone; those that
    are named by their place in the list. That ABP
    uses SkipNet's gates is second-hand; the place of the gate and the first block without one
    are SkipNet's.

    References
    ----------
    Si, Qi and Song, *Automatic Block-wise Pruning with Auxiliary Gating Structures for Deep
    Convolutional Neural Networks*, arXiv:2205.03602.

    Examples
    --------
    >>> from metalearn_tut.models import CifarResNet
    >>> gated = BlockGated(CifarResNet(20))
    >>> gated(torch.rand(2, 3, 32, 32)).shape, gated.marks(torch.rand(2, 3, 32, 32)).shape
    (torch.Size([2, 10]), torch.Size([2, 9]))
    >>> gated.candidates
    (1, 2, 4, 5, 7, 8)

    Of another network the blocks are named:

    >>> class Residual(nn.Conv2d):
    ...     def forward(self, x):
    ...         return torch.relu(x + super().forward(x))
    >>> body = [nn.Conv2d(1, 8, 3), *(Residual(8, 8, 3, padding=1) for _ in range(3))]
    >>> network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> BlockGated(network, blocks=["1", "2", "3"]).marks(torch.rand(2, 1, 9, 9)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        gate: str = "soft1",
        *,
        blocks: Sequence[str] | None = None,
        masking: str = "soft",
        mixing: str = "skipnet",
        gate_first: bool = False,
        gate_transitions: bool = True,
    ) -> None:
        check_choice("masking", masking, MASKINGS)
        check_choice("mixing", mixing, MIXINGS)
        super().__init__()
        self.names = named_blocks(network, blocks)
        self.network = copy.deepcopy(network)
        self.masking, self.mixing = masking, mixing
        if hasattr(network, "classes"):
            self.classes = network.classes
        self.pruned: set[int] = set()
        own = self.blocks()
        _check_mixing(own.values(), mixing)
        if blocks is None:
            first = next(iter(own), None)
            own = {n: b for n, b in own.items() if n != first or gate_first}
            own = {n: b for n, b in own.items() if b.stride == 1 or gate_transitions}
        gates = {str(n): BlockGate(gate, input_channels(block)) for n, block in own.items()}
        self.gates = nn.ModuleDict(gates).to(next(network.parameters()))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all N blocks: what the columns of marks and masks stand for."""
        return tuple(self.names)

    def blocks(self) -> dict[int, nn.Module]:
        """The N blocks by number."""
        return {n: self.network.get_submodule(name) for n, name in self.names.items()}

    @property
    def candidates(self) -> tuple[int, ...]:
        """Blocks that may still be pruned: gated, not frozen, not pruned, of the same shape."""
        gated = {n: block for n, block in self.blocks().items() if str(n) in self.gates}
        return tuple(n for n, block in gated.items() if may_go(block) and n not in self.pruned)

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
        marks: dict[int, Tensor] = {}
        places = {}
        for column, (number, block) in enumerate(self.blocks().items()):
            mask = None if masks is None else masks[..., column].reshape(-1, 1, 1, 1)
            call = partial(self._weigh, marks, number, block, mask)
            places[self.names[number]] = InPlace(call)
        logits = with_modules(self.network, places)(x)
        for number, name in self.names.items():
            if number not in marks:
                raise ValueError(f"blocks: {name!r} was not called; its network must call it once")
        return logits, torch.cat([marks[number] for number in self.names], 1).flatten(1)

    def _weigh(
        self,
        marks: dict[int, Tensor],
        number: int,
        block: nn.Module,
        mask: Tensor | None,
        x: Tensor,
    ) -> Tensor:
        """The output of a block, weighed; its mark becomes one of ``marks``."""
        if number in marks:
            raise ValueError(f"blocks: {self.names[number]!r} is called twice; name another")
        mark = x.new_ones(x.shape[0], 1, 1, 1)  # len(x) would be fixed in an exported graph
        if mask is not None:
            mark = mark * mask
            out = mix(block, x, mark, self.mixing)
        elif number in self.pruned:
            mark, out = torch.zeros_like(mark), bypass(block, x)
        elif str(number) in self.gates:
            mark = self.gates[str(number)](x)
            out = mix(block, x, mask_of(mark, self.masking, self.training), self.mixing)
        else:
            out = block(x)
        marks[number] = mark
        return out

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits ``[B, classes]`` of the images ``x [B, C, H, W]``.

        With ``masks [N]`` or ``[B, N]``, one for each block, these stand in for the gates':
        0 leaves a block out (also one that changes the shape), 1 is the whole block.
        """
        return self.run(x, masks)[0]

    def marks(self, x: Tensor) -> Tensor:
        """The soft marks ``[B, N]``: 1 where there is no gate, 0 where the block is pruned."""
        return self.run(x)[1]


def _check_mixing(blocks: Iterable[nn.Module], mixing: str) -> None:
    for block in blocks if mixing == "aig" else ():
        if not (hasattr(block, "shortcut") and hasattr(block, "residual")):
            raise ValueError(
                "mixing='aig' needs blocks with methods shortcut and residual, and "
                f"{type(block).__name__} has not both: use 'skipnet'"
            )
