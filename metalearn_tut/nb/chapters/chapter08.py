"""Checks of chapter 8's exercises: a front of several costs, a scaled head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metalearn_tut.nb import check, close

__all__ = ["check_front", "check_head"]


def check_front(my_front: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 8.1: which of n learners no other makes needless.

    ``my_front(costs, accuracy)`` for costs [n, d] and accuracies [n], bool [n]; the right answer
    compares each learner with each other one.

    Examples
    --------
    >>> def answer(costs, accuracy):
    ...     all_ = torch.cat([costs, -accuracy[:, None]], 1)
    ...     worse = (all_[None] <= all_[:, None]).all(2) & (all_[None] < all_[:, None]).any(2)
    ...     return ~worse.any(1)
    >>> check_front(answer)
    Exercise 8.1: correct
    """

    def verify() -> None:
        generator = torch.Generator().manual_seed(0)
        for n, d in ((3, 1), (12, 1), (9, 2), (20, 3)):
            # Few different values, so that there are ties and learners that are alike in all.
            costs = torch.randint(1, 5, (n, d), generator=generator).double()
            accuracy = torch.randint(1, 5, (n,), generator=generator).double() / 5
            costs[-1], accuracy[-1] = costs[0], accuracy[0]
            right = [
                not any(_needless(costs[i], accuracy[i], costs[j], accuracy[j]) for j in range(n))
                for i in range(n)
            ]
            found = my_front(costs.clone(), accuracy.clone())
            close(found, right, f"front of {n} learners and {d} costs")

    check("Exercise 8.1", verify)


def _needless(cost_a: Tensor, a: Tensor, cost_b: Tensor, b: Tensor) -> bool:
    """Whether learner b is nowhere worse than a, and somewhere better."""
    nowhere_worse = bool((cost_b <= cost_a).all() and b >= a)
    return nowhere_worse and bool((cost_b < cost_a).any() or b > a)


def check_head(my_head: Callable[[Tensor, Tensor], nn.Linear]) -> None:
    """Exercise 8.2: prototypes with a scale for each feature as a linear layer.

    ``my_head(centers, scale)`` in float64; its probabilities must be those of the negative
    scaled squared distances.
    """

    def verify() -> None:
        generator = torch.Generator().manual_seed(0)
        for ways, features in ((2, 3), (5, 16)):
            centers = torch.randn(ways, features, generator=generator).double()
            scale = 0.2 + torch.rand(features, generator=generator).double()
            x = torch.randn(7, features, generator=generator).double()
            gaps = scale * (x[:, None] - centers).square()
            head = my_head(centers.clone(), scale.clone())
            found = head(x).softmax(1)
            what = f"head of {ways} prototypes: probabilities"
            close(found, (-gaps.sum(2)).softmax(1), what)

    check("Exercise 8.2", verify)
