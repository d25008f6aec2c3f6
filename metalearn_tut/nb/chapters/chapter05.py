"""Checks of chapter 5's exercises: a vote against the mean, and what pruning blocks saves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_tut.block_voting import count_votes, prunable_blocks, remove_blocks
from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet
from metalearn_tut.nb import check, close

__all__ = ["check_marks", "check_saving"]


def check_marks(my_marks: Callable[[], Tensor]) -> None:
    """Exercise 5.1: marks ``[5, 3]`` whose vote the first block wins with the highest mean.

    Examples
    --------
    >>> check_marks(lambda: torch.tensor([[0.5, 0.6, 0.6]] * 3 + [[0.9, 0.1, 0.2]] * 2))
    Exercise 5.1: correct
    """

    def verify() -> None:
        marks = torch.as_tensor(my_marks()).double()
        if marks.shape != (5, 3):
            raise AssertionError(f"marks: expected shape (5, 3), got {tuple(marks.shape)}")
        if not bool(((marks >= 0) & (marks <= 1)).all()):
            raise AssertionError("marks: all must be in [0, 1]")
        votes, means = count_votes(marks).tolist(), marks.mean(0).tolist()
        if votes[0] <= max(votes[1:]):
            raise AssertionError(f"votes: {votes}, the first block does not have the most")
        if means[0] <= max(means[1:]) + 1e-9:
            shown = [round(m, 3) for m in means]
            raise AssertionError(f"means: {shown}, the first is not the highest")

    check("Exercise 5.1", verify)


def check_saving(my_saving: Callable[[int, int], tuple[float, float]]) -> None:
    """Exercise 5.2: the share of multiply-adds that p blocks save, and the largest share.

    The right answer is counted on the networks themselves, ResNet-20 and ResNet-32.
    """

    def verify() -> None:
        for n, p in ((3, 0), (3, 2), (5, 6), (5, 13)):
            mine = my_saving(n, p)
            network = CifarResNet(6 * n + 2)
            may = prunable_blocks(network)
            close(mine[0], _saved(network, may[:p]), f"share saved by {p} blocks of n = {n}")
            close(mine[1], _saved(network, may), f"largest share for n = {n}")

    check("Exercise 5.2", verify)


def _saved(network: CifarResNet, blocks: tuple[int, ...]) -> float:
    whole, left = (cost.macs(net, (3, 32, 32)) for net in (network, remove_blocks(network, blocks)))
    return 1 - left / whole
