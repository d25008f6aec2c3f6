"""Checks of chapter 7's exercises: the end of rounds, what open filters cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.nb import check, close

__all__ = ["check_end", "check_work"]


def check_end(my_end: Callable[[Tensor, Tensor, Tensor, int, float, float], Tensor]) -> None:
    """Exercise 7.1: where rounds of ``steps`` local steps end, for quadratic nodes.

    ``my_end(a, h, sizes, steps, alpha, beta)`` in float64; the right answer is found by taking
    the rounds.

    Examples
    --------
    >>> def answer(a, h, sizes, steps, alpha, beta):
    ...     pulls = sizes * (1 - (1 - beta * h * (1 - alpha * h) ** 2) ** steps)
    ...     return (pulls * a).sum() / pulls.sum()
    >>> check_end(answer)
    Exercise 7.1: correct
    """

    def verify() -> None:
        generator = torch.Generator().manual_seed(0)
        for n, steps, alpha, beta in ((2, 1, 0.1, 0.1), (3, 4, 0.2, 0.3), (5, 30, 0.0, 0.2)):
            a = 3 * torch.randn(n, generator=generator).double()
            h = 0.5 + 2 * torch.rand(n, generator=generator).double()
            sizes = torch.randint(1, 50, (n,), generator=generator).double()
            if n == 3:
                sizes[1] = 0
            what = f"end of rounds of {n} nodes, steps = {steps}, alpha = {alpha}, beta = {beta}"
            right = _end_of_rounds(a, h, sizes, steps, alpha, beta)
            close(my_end(a, h, sizes, steps, alpha, beta), right, what)

    check("Exercise 7.1", verify)


def _end_of_rounds(
    a: Tensor, h: Tensor, sizes: Tensor, steps: int, alpha: float, beta: float
) -> Tensor:
    """By taking rounds until nothing moves, each node's slope from its two inner steps."""
    theta, moved = torch.zeros((), dtype=torch.float64), 1.0
    while moved > 1e-12:
        own = theta.expand_as(a)
        for _ in range(steps):
            adapted = own - alpha * h * (own - a)
            own = own - beta * (1 - alpha * h) * h * (adapted - a)
        before, theta = theta, (sizes * own).sum() / sizes.sum()
        moved = (theta - before).abs().item()
    return theta


def check_work(my_work: Callable[[Sequence[Tensor], Sequence[int], int, int], Tensor]) -> None:
    """Exercise 7.2: multiplications of gated convolutions, image by image.

    ``my_work(masks, sides, channels, hidden)``; the right answer counts, with ones for weights
    and images, what convolutions of the open filters and linear layers add up.
    """

    def verify() -> None:
        generator = torch.Generator().manual_seed(0)
        for filters, sides, channels, hidden in (
            ((4,), (8,), 1, 2),
            ((3, 5), (6, 3), 2, 4),
            ((6, 4, 8), (10, 5, 2), 3, 16),
        ):
            masks = [torch.rand(5, n, generator=generator).round().double() for n in filters]
            masks[-1][0] = 0.0
            masks[-1][1] = 1.0
            right = [
                _counted([mask[b] for mask in masks], sides, channels, hidden) for b in range(5)
            ]
            what = f"multiplications of {len(filters)} layers with {filters} filters"
            close(my_work([mask.clone() for mask in masks], sides, channels, hidden), right, what)

    check("Exercise 7.2", verify)


def _counted(masks: Sequence[Tensor], sides: Sequence[int], channels: int, hidden: int) -> int:
    """A sum over products of ones is their number; with wrapping, a kernel meets every pixel."""
    total, here = 0, torch.ones(channels)
    for mask, side in zip(masks, sides, strict=True):
        x = here.view(1, -1, 1, 1).expand(1, -1, side, side)
        x = F.pad(x[:, here > 0], (1, 1, 1, 1), value=1.0)
        opens, reads = int(mask.sum()), x.shape[1]
        if opens and reads:
            total += int(F.conv2d(x, torch.ones(opens, reads, 3, 3)).sum())
        inner, outer = torch.ones(hidden, len(here)), torch.ones(len(mask), hidden)
        total += int(inner.sum() + outer.sum())
        here = mask.float()
    return total
