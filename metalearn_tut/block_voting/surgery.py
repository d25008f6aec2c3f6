"""Taking blocks out of a residual network, and how many may go."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.mode import any_frozen

Residual = CifarResNet | BlockGated


def prunable_blocks(model: Residual) -> tuple[int, ...]:
    """Numbers of the blocks that can be removed, from 0 in the whole network.

    Blocks that change the shape stay, and so do those of which any parameter is frozen. Of a
    network with gates, these are the ``candidates``: a block without a gate cannot be voted on.

    Raises
    ------
    TypeError
        If ``model`` is not a network whose blocks can be removed.

    Examples
    --------
    >>> len(prunable_blocks(CifarResNet(32))), len(prunable_blocks(BlockGated(CifarResNet(32))))
    (13, 12)
    """
    if isinstance(model, BlockGated):
        return model.candidates
    blocks = _network(model).blocks.named_children()
    return tuple(int(n) for n, block in blocks if block.stride == 1 and not any_frozen(block))


def block_budget(model: Residual, ratio: float) -> int:
    """How many blocks a pruning ratio means: ``floor(ratio · number of blocks)``.

    All residual blocks count, also those that cannot go. So do the reductions in the paper's
    table come out, but for one: its ResNet-56 at 0.2 has lost four blocks, where this rule gives
    five.

    Parameters
    ----------
    model : CifarResNet or BlockGated
        Blocks that its gates skip already are part of the number.
    ratio : float
        In [0, 1).

    Raises
    ------
    TypeError
        If ``model`` is not a network whose blocks can be removed.
    ValueError
        If ``ratio`` is outside [0, 1), or more than may be pruned.

    Examples
    --------
    >>> [block_budget(CifarResNet(56), ratio) for ratio in (0.2, 0.4, 0.6)]
    [5, 10, 16]
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be in [0, 1), got {ratio}")
    may, blocks = most_prunable(model), len(_network(model).blocks)
    n = math.floor(ratio * blocks + 1e-9)  # 0.29 · 100 is 28.999999999999996
    if n > may:
        why = frozen_blocks(model)
        raise ValueError(f"ratio={ratio} of {blocks} blocks is {n}, but {may} may be pruned{why}")
    return n


def most_prunable(model: Residual) -> int:
    """How many blocks may be pruned in all, those skipped already included.

    Examples
    --------
    >>> most_prunable(CifarResNet(56))
    25
    """
    already = len(model.pruned) if isinstance(model, BlockGated) else 0
    return len(prunable_blocks(model)) + already


def frozen_blocks(model: Residual) -> str:
    """For errors: how many blocks stay because they are frozen, if any do."""
    n = sum(any_frozen(block) for block in _network(model).blocks)
    return f" ({n} are frozen: requires_grad=False)" if n else ""


def remove_blocks(model: Residual, blocks: Iterable[int]) -> CifarResNet:
    """An ungated copy without these blocks, with the weights of all others.

    It computes what the network does with masks 0 for these and 1 for all others, to rounding.
    The blocks that stay keep their names, so the keys of its ``state_dict`` are a subset.

    Parameters
    ----------
    model : CifarResNet or BlockGated
        Left as it is; gates are not copied.
    blocks : iterable of int
        Block numbers, as in the whole network.

    Raises
    ------
    TypeError
        If ``model`` is not a network whose blocks can be removed.
    ValueError
        If one of the blocks is not there, is frozen or changes the shape.

    Examples
    --------
    >>> shorter = remove_blocks(CifarResNet(20), [1, 4])
    >>> [name for name, _ in shorter.blocks.named_children()]
    ['0', '2', '3', '5', '6', '7', '8']
    """
    network = _network(model)
    gone, may = set(blocks), prunable_blocks(network)
    for block in sorted(gone - set(may)):
        raise ValueError(
            f"block {block} is absent, frozen or changes the shape, and cannot be removed; these "
            f"can: {may}"
        )
    shorter = copy.deepcopy(network)
    kept = ((n, b) for n, b in shorter.blocks.named_children() if int(n) not in gone)
    shorter.blocks = nn.Sequential(OrderedDict(kept))
    return shorter


def _network(model: Residual) -> CifarResNet:
    """The network behind the gates."""
    network = model.network if isinstance(model, BlockGated) else model
    if not isinstance(network, CifarResNet):
        raise TypeError(
            f"{type(network).__name__} has no residual blocks that could be removed: "
            "give a CifarResNet or a BlockGated"
        )
    return network
