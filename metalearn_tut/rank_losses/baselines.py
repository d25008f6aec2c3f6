"""What rank losses are compared with, on the same footing: TR-MAML's mixture, and an oracle.

The mean, the maximum and the average top-k need no class: they are ``RankedRange(0, n)``,
``RankedRange(0, 1)`` and ``RankedRange(0, k)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_tut.checks import check_count
from metalearn_tut.rank_losses.aggregate import TaskAggregate, check_remembered


class WorstMixture(TaskAggregate):
    """Task-robust MAML (TR-MAML, Collins et al. 2020): the worst mixture of a pool of tasks.

    ``min_theta max_p sum_j p_j · l_j(theta)``, p a distribution over the pool's N tasks. A step
    on n of them weights task i by ``p_i · N / n`` (by 1/n while p is uniform), and then moves
    ``p <- projection(p + rate · l)`` onto the simplex, l being 0 for the other tasks.

    Parameters
    ----------
    pool : int
        Number N of tasks; the sampler must cycle through them in order, as
        ``tasks.Pool(sampler, N)`` does: step s, position i is task ``(s·n + i) mod N``.
    rate : float, default 1e-4
        Step size of p; public code of TR-MAML's authors uses 1e-5 to 3e-4.
    burn_in : int, default 0
        Steps with the mean of all tasks first; p moves already.

    Raises
    ------
    ValueError
        If an argument is out of range, or a batch larger than the pool.
    """

    def __init__(self, pool: int, rate: float = 1e-4, *, burn_in: int = 0) -> None:
        (self.pool,) = check_count(pool=pool)
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be positive, got {rate}")
        self.rate = rate
        super().__init__(burn_in)

    def __repr__(self) -> str:
        return f"WorstMixture(pool={self.pool}, rate={self.rate}, burn_in={self.burn_in})"

    @property
    def mixture(self) -> Tensor:
        """The present p ``[N]``."""
        p = self.memory.get("mixture", [1 / self.pool] * self.pool)
        return torch.tensor(p, dtype=torch.float64)

    def _weigh(self, losses: Tensor) -> tuple[Tensor, None, None]:
        check_remembered(losses)
        n = len(losses)
        if n > self.pool:
            raise ValueError(f"a batch of {n} tasks is larger than the pool of {self.pool}")
        here = (torch.arange(n) + self.step * n) % self.pool
        mixture = self.mixture
        weights = mixture[here] * self.pool / n
        mixture[here] += self.rate * losses.to("cpu", torch.float64)
        self.memory["mixture"] = simplex_projection(mixture).tolist()
        return weights.to(losses), None, None


def simplex_projection(v: Tensor) -> Tensor:
    """The distribution nearest to ``v [N]``, by a sort.

    ``p_i = [v_i - tau]_+`` with the tau for which p sums to 1 (Duchi et al. 2008, figure 1).

    Examples
    --------
    >>> simplex_projection(torch.tensor([0.5, 1.0, -1.0]))
    tensor([0.2500, 0.7500, 0.0000])
    """
    if v.ndim != 1 or not len(v) or not v.is_floating_point() or not bool(v.isfinite().all()):
        raise ValueError(
            "v must be a vector of at least one number, floating-point and finite, "
            f"got shape {list(v.shape)} of {v.dtype}"
        )
    v = v - v.max()  # the same projection, and no small number is lost in large ones
    ranked = v.sort(descending=True).values
    ranks = torch.arange(1, len(v) + 1, device=v.device)
    taus = (ranked.cumsum(0) - 1) / ranks  # tau if the first r entries are the positive ones
    return (v - taus[(ranked > taus).sum() - 1]).clamp(min=0)


class Oracle(TaskAggregate):
    """The mean of the tasks that are known to be clean: for experiments, as an upper mark.

    Parameters
    ----------
    noisy : callable
        Task index -> whether that task is noisy, such as
        ``lambda i: sampler[i].tags["noisy"]``. Step s, position i is task ``s·n + i``.
        The learner never sees it.

    Examples
    --------
    >>> oracle = Oracle(lambda index: index % 2 == 1)
    >>> oracle.select(torch.tensor([3.0, 1.0, 2.0])).tolist()
    [0.5, 0.0, 0.5]
    """

    def __init__(self, noisy: Callable[[int], bool]) -> None:
        self.noisy = noisy
        super().__init__()

    def __repr__(self) -> str:
        return f"Oracle({self.noisy!r})"

    def _weigh(self, losses: Tensor) -> tuple[Tensor, None, None]:
        first = self.step * len(losses)
        clean = [not self.noisy(first + i) for i in range(len(losses))]
        kept = torch.tensor(clean, dtype=losses.dtype, device=losses.device)
        return kept / max(1, sum(clean)), None, None
