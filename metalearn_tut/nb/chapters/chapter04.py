"""Checks of chapter 4's exercises: two weights, and who gives how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metalearn_tut.nb import check, close
from metalearn_tut.saliency.masks import select

__all__ = ["check_masks", "check_pair"]


def check_pair(my_pair: Callable[[float, float, float], tuple[float, float]]) -> None:
    """Exercise 4.1: cost of removing the first of two weights, and the second one afterwards.

    The inputs have mean square 1 and mean product c. The right answer is the least-squares refit
    of the second weight on two inputs of that kind.

    Examples
    --------
    >>> check_pair(lambda w1, w2, c: (w1**2 - (c * w1) ** 2, w2 + w1 * c))
    Exercise 4.1: correct
    """

    def verify() -> None:
        for w1, w2, c in ((2.0, 1.0, 0.5), (1.0, -3.0, 0.0), (-1.5, 0.5, -0.8), (3.0, 0.0, 1.0)):
            what = f"for w1 = {w1}, w2 = {w2}, c = {c}"
            cost, new = my_pair(w1, w2, c)
            new_right, error = _refit(
                torch.tensor([w1, w2], dtype=torch.float64),
                torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64),
                [0],
            )
            close(cost, error, f"cost {what}")
            close(new, new_right[1], f"the new w2 {what}")

    check("Exercise 4.1", verify)


def _refit(w: Tensor, H: Tensor, removed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Kept weights from their own normal equations, and the error that this leaves."""
    kept = [i for i in range(len(w)) if i not in removed]
    new = torch.zeros_like(w)
    if kept:
        new[kept] = torch.linalg.solve(H[kept][:, kept], (H @ w)[kept])
    delta = new - w
    return new, delta @ H @ delta


def check_masks(
    my_masks: Callable[[list[Tensor], float, list[int]], Sequence[Tensor]],
) -> None:
    """Exercise 4.2: masks of layers that all give alike, except those that give nothing.

    ``my_masks(scores, share, spare)``: the scores of each layer, the share of all weights to
    remove, the numbers of the layers to spare. Counts are rounded down within each layer.
    """

    def verify() -> None:
        for shapes, share, spare in (
            (((4, 5), (7,)), 0.5, []),
            (((3,), (4, 6), (5, 5)), 0.35, [0]),
            (((3, 2), (10,), (8,)), 0.41, [0, 2]),
            (((6,), (9,)), 0.0, [1]),
        ):
            what = f"for layers of {shapes}, share {share}, spare {spare}"
            generator = torch.Generator().manual_seed(1)
            scores = [torch.rand(shape, generator=generator).double() for shape in shapes]
            named = {f"{i}.weight": s for i, s in enumerate(scores)}
            ones = {n: torch.ones_like(s, dtype=torch.bool) for n, s in named.items()}
            right = select(named, ones, share, spare=[str(i) for i in spare])
            mine = my_masks([s.clone() for s in scores], share, list(spare))
            if len(mine) != len(scores):
                raise AssertionError(f"masks {what}: expected {len(scores)}, got {len(mine)}")
            for i, (a, b) in enumerate(zip(mine, right.values(), strict=True)):
                close(torch.as_tensor(a).double(), b.double(), f"mask of layer {i} {what}")

    check("Exercise 4.2", verify)
