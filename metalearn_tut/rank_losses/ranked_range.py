"""The average of a range of ranks: neither the hardest tasks nor the easiest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.checks import as_integer
from metalearn_tut.rank_losses.aggregate import TaskAggregate


class RankedRange(TaskAggregate):
    """Average of ranked range (AoRR): the mean of the task losses of ranks m+1..k.

    ``AoRR(l) = 1/(k-m) · sum_{i=m+1}^{k} l_[i]``, ``l_[1] >= ... >= l_[n]`` the losses in
    descending order. So the ``m`` hardest tasks of a batch are left out, where noise and
    outliers are, and so are the ``n - k`` easiest. The gradient with respect to the losses is
    ``1/(k-m)`` at the ranks kept and 0 elsewhere; the ranks themselves are constants.

    Special cases ``(m, k)``: ``(0, n)`` the mean, to the bit; ``(0, 1)`` the maximum;
    ``(0, k)`` the average top-k; ``(m, n)`` a mean trimmed from above; ``(n-1, n)`` the minimum.

    Parameters
    ----------
    m : int
        Number of hardest tasks left out, >= 0.
    k : int
        Number of tasks that are not among the easiest left out, m < k <= n.
    burn_in : int, default 0
        Steps with the mean of all tasks first.

    Raises
    ------
    ValueError
        Unless ``0 <= m < k``; and when called with fewer than k losses.

    Notes
    -----
    The objective is known to us from a summary of the HeTRoM paper (arXiv:2410.18894), and
    agrees with its authors' earlier papers on ranked ranges (Hu et al., NeurIPS 2020, JMLR
    2022), whose convention for m and k this is. Tasks are selected by their position in a
    stable sort, never by comparing with the m-th and k-th loss, which would be off by one;
    of equal losses the earlier task counts as the harder. ``log`` notes ``low = l_[k]`` and
    ``high = l_[m]``.

    Examples
    --------
    >>> losses = torch.tensor([0.1, 9.0, 1.0, 3.0, 2.0], requires_grad=True)
    >>> value = RankedRange(m=1, k=4)(losses)
    >>> value.backward()
    >>> round(value.item(), 6), [round(g, 3) for g in losses.grad.tolist()]
    (2.0, [0.0, 0.0, 0.333, 0.333, 0.333])
    """

    def __init__(self, m: int, k: int, *, burn_in: int = 0) -> None:
        for name, value in (("m", m), ("k", k)):
            if as_integer(value) is None:
                raise ValueError(
                    f"{name} must be an integer, got {value!r}; "
                    f"for shares of the batch: {type(self).__name__}.fractions(...)"
                )
        self.m, self.k, self.shares = as_integer(m), as_integer(k), None
        self._check(self.m, self.k)
        super().__init__(burn_in)

    @classmethod
    def fractions(
        cls, *, drop_hardest: float = 0.0, drop_easiest: float = 0.0, **settings: Any
    ) -> RankedRange:
        """The same with shares of the batch instead of counts.

        Of n tasks, ``m = ceil(drop_hardest · n)`` and ``k = n - floor(drop_easiest · n)``.

        Parameters
        ----------
        drop_hardest, drop_easiest : float, default 0
            In [0, 1), together less than 1.
        **settings
            The further arguments of the class.

        Examples
        --------
        >>> RankedRange.fractions(drop_hardest=0.25, drop_easiest=0.1).ranks(16)
        (4, 15)
        """
        check_shares(drop_hardest, drop_easiest)
        made = cls(0, 1, **settings)
        made.m = made.k = None
        made.shares = drop_hardest, drop_easiest
        return made

    def __repr__(self) -> str:
        ranks = f"m={self.m}, k={self.k}"
        if self.shares:
            ranks = "drop_hardest={}, drop_easiest={}".format(*self.shares)
        return f"{type(self).__name__}({ranks}{self._settings()}, burn_in={self.burn_in})"

    def _settings(self) -> str:
        return ""

    def ranks(self, n: int) -> tuple[int, int]:
        """(m, k) for a batch of n tasks."""
        m, k = self.m, self.k
        if self.shares:
            hardest, easiest = (share * n for share in self.shares)
            # 0.07 · 100 is 7.000000000000001, and means 7
            m, k = math.ceil(hardest - 1e-9), n - math.floor(easiest + 1e-9)
        self._check(m, k, n)
        return m, k

    def _check(self, m: int, k: int, n: int | None = None) -> None:
        if not 0 <= m < k or (n is not None and k > n):
            tasks = "" if n is None else f" with n={n} tasks"
            raise ValueError(
                f"{type(self).__name__} needs 0 <= m < k <= n, got m={m}, k={k}{tasks}"
            )

    def _weigh(self, losses: Tensor) -> tuple[Tensor, float | None, float | None]:
        m, k = self.ranks(len(losses))
        order = losses.sort(descending=True, stable=True).indices
        weights = torch.zeros_like(losses)
        weights[order[m:k]] = 1 / (k - m)
        high = losses[order[m - 1]].item() if m else None
        return weights, losses[order[k - 1]].item(), high


def check_shares(drop_hardest: float, drop_easiest: float) -> None:
    """Refuse shares of a batch that would leave nothing."""
    for name, share in (("drop_hardest", drop_hardest), ("drop_easiest", drop_easiest)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in [0, 1), got {share}")
    if drop_hardest + drop_easiest >= 1:
        raise ValueError(
            f"drop_hardest + drop_easiest must be less than 1, got {drop_hardest} + {drop_easiest}"
        )
