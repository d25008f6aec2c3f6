"""Checks of chapter 3's exercises: what ranks cost, and shares of a task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_tut.nb import check, close

__all__ = ["check_share_weights", "check_sound_dropped"]


def check_sound_dropped(my_sound_dropped: Callable[[int, int, float], float]) -> None:
    """Exercise 3.1: how many sound tasks are left out on average with the m hardest of T.

    Each task is broken with probability ``rate``, and sorting is perfect: ``E[max(m - X, 0)]``
    with X binomial. The right answer adds up the distribution of X, one task after another.

    Examples
    --------
    >>> from math import comb
    >>> def answer(T, m, rate):
    ...     chances = [comb(T, x) * rate**x * (1 - rate) ** (T - x) for x in range(T + 1)]
    ...     return sum(p * max(m - x, 0) for x, p in enumerate(chances))
    >>> check_sound_dropped(answer)
    Exercise 3.1: correct
    """

    def verify() -> None:
        for T, m, rate in ((8, 4, 0.5), (16, 4, 0.2), (16, 8, 0.2), (5, 1, 0.7), (4, 2, 0.0)):
            what = f"sound tasks left out with m = {m} of {T}, {rate:.0%} broken"
            close(my_sound_dropped(T, m, rate), _sound_dropped(T, m, rate), what)

    check("Exercise 3.1", verify)


def _sound_dropped(T: int, m: int, rate: float) -> float:
    chances = [1.0]  # of x broken tasks among those looked at so far
    for _ in range(T):
        more, fewer = [0.0, *chances], [*chances, 0.0]
        chances = [rate * p + (1 - rate) * q for p, q in zip(more, fewer, strict=True)]
    return sum(p * (m - x) for x, p in enumerate(chances[:m]))


def check_share_weights(my_share_weights: Callable[[Tensor, float, float], Tensor]) -> None:
    """Exercise 3.2: weights ``[n]`` of a ranked range whose ends are not whole ranks.

    Rank r weighs what ``[r - 1, r]`` has in common with ``[m, k]``, ``m = drop_hardest · n`` and
    ``k = n - drop_easiest · n``; the weights sum to 1. Of equal losses the earlier is the harder.
    """

    def verify() -> None:
        losses = torch.tensor([1.5, 9.0, 0.25, 2.0, 1.0, 5.0, 0.5, 2.5], dtype=torch.float64)
        for tasks, hardest, easiest in (
            (losses, 0.25, 0.25),
            (losses, 0.3, 0.0),
            (losses, 0.0, 0.3),
            (losses, 0.3, 0.2),
            (losses[:5], 0.45, 0.45),  # all within one rank
            (losses[:3], 0.0, 0.0),
            (torch.ones(4, dtype=torch.float64), 0.375, 0.25),  # ties
        ):
            what = f"weights of losses {tasks.tolist()}, dropping {hardest:g} and {easiest:g}"
            close(
                my_share_weights(tasks, hardest, easiest), _weights(tasks, hardest, easiest), what
            )

    check("Exercise 3.2", verify)


def _weights(losses: Tensor, drop_hardest: float, drop_easiest: float) -> list[float]:
    n = len(losses)
    m, k = drop_hardest * n, n - drop_easiest * n
    values = losses.tolist()
    weights = [0.0] * n
    for rank, i in enumerate(sorted(range(n), key=lambda i: -values[i])):
        weights[i] = max(0.0, min(rank + 1, k) - max(rank, m)) / (k - m)
    return weights
