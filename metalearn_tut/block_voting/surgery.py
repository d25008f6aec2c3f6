"""Taking blocks out of a residual network, and how many may go."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.block_voting.networks.blocks import may_go, named_blocks, without_blocks
from metalearn_tut.models.mode import any_frozen


def prunable_blocks(model: nn.Module) -> tuple[int, ...]:
    """Numbers of the blocks that can be removed, from 0 in the whole network.

    Blocks that change the shape stay, and so do those of which any parameter is frozen. Of a
    network with gates, these are the ``candidates``: a block without a gate cannot be voted on.

    Raises
    ------
    TypeError
        If the blocks of ``model`` are not known.

    Examples
    --------
    >>> from metalearn_tut.models import CifarResNet
    >>> len(prunable_blocks(CifarResNet(32))), len(prunable_blocks(BlockGated(CifarResNet(32))))
    (13, 12)
    """
    if isinstance(model, BlockGated):
        return model.candidates
    return tuple(number for number, block in _blocks(model).items() if may_go(block))


def block_budget(model: nn.Module, ratio: float) -> int:
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
        If the blocks of ``model`` are not known.
    ValueError
        If ``ratio`` is outside [0, 1), or more than may be pruned.

    Examples
    --------
    >>> from metalearn_tut.models import CifarResNet
    >>> [block_budget(CifarResNet(56), ratio) for ratio in (0.2, 0.4, 0.6)]
    [5, 10, 16]
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be in [0, 1), got {ratio}")
    may, blocks = most_prunable(model), len(_blocks(model))
    n = math.floor(ratio * blocks + 1e-9)  # 0.29 · 100 is 28.999999999999996
    if n > may:
        why = frozen_blocks(model)
        raise ValueError(f"ratio={ratio} of {blocks} blocks is {n}, but {may} may be pruned{why}")
    return n


def most_prunable(model: nn.Module) -> int:
    """How many blocks may be pruned in all, those skipped already included.

    Examples
    --------
    >>> from metalearn_tut.models import CifarResNet
    >>> most_prunable(CifarResNet(56))
    25
    """
    already = len(model.pruned) if isinstance(model, BlockGated) else 0
    return len(prunable_blocks(model)) + already


def frozen_blocks(model: nn.Module) -> str:
    """For errors: how many blocks stay because they are frozen, if any do."""
    n = sum(any_frozen(block) for block in _blocks(model).values())
    return f" ({n} are frozen: requires_grad=False)" if n else ""


def remove_blocks(model: nn.Module, blocks: Iterable[int]) -> nn.Module:
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
        If the blocks of ``model`` are not known.
    ValueError
        If one of the blocks is not there, is frozen or changes the shape.

    Examples
    --------
    >>> from metalearn_tut.models import CifarResNet
    >>> shorter = remove_blocks(CifarResNet(20), [1, 4])
    >>> [name for name, _ in shorter.blocks.named_children()]
    ['0', '2', '3', '5', '6', '7', '8']
    """
    network, names = _named(model)
    gone = set(blocks)
    may = tuple(n for n, name in names.items() if may_go(network.get_submodule(name)))
    for block in sorted(gone - set(may)):
        raise ValueError(
            f"block {block} is absent, frozen or changes the shape, and cannot be removed; these "
            f"can: {may}"
        )
    return without_blocks(network, [names[number] for number in sorted(gone)])


def _named(model: nn.Module) -> tuple[nn.Module, dict[int, str]]:
    """The network behind the gates, and the names of its blocks by number."""
    if isinstance(model, BlockGated):
        return model.network, model.names
    return model, named_blocks(model)


def _blocks(model: nn.Module) -> dict[int, nn.Module]:
    network, names = _named(model)
    return {number: network.get_submodule(name) for number, name in names.items()}
