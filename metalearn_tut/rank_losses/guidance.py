"""Thresholds from a model of the losses instead of counts: statistical guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.checks import check_count
from metalearn_tut.learners.learner import Learner
from metalearn_tut.rank_losses.aggregate import TaskAggregate, check_losses, check_remembered
from metalearn_tut.rank_losses.ranked_range import check_shares
from metalearn_tut.scoring import scalar_loss
from metalearn_tut.tasks.sampler import TaskSampler

_SMALLEST = 1e-8  # losses below it count as this: the logarithm of 0 is of no use
_TOLERANCE = 1e-6  # in logarithms: equal losses differ by rounding
_MAD_TO_SIGMA = 1.4826  # the median absolute deviation of a normal distribution is sigma / 1.4826


class LogNormalGuidance(TaskAggregate):
    """Keep the tasks whose loss is likely under a log-normal model of the losses (sg-HeTRoM).

    With ``mu`` and ``sigma`` the moving mean and standard deviation of the logarithms of the
    losses, a task is kept if

    ``low = exp(mu + z_low·sigma) <= loss <= high = exp(mu + z_high·sigma)``

    and weighs 1 over the number of tasks kept. So that number follows the batch: all, if it
    is clean; few, if most of it is not; it can be 0.

    Parameters
    ----------
    z_low, z_high : float, default -2 and 1
        Limits in standard deviations; infinite ones keep everything on their side.
        :meth:`fractions` finds them from shares.
    beta : float, default 0.9
        In [0, 1): how much of ``mu`` and ``sigma`` is kept in each update; the first update
        sets them.
    robust : bool, default False
        Use the median and 1.4826 times the median absolute deviation, which a few noisy
        tasks cannot inflate.
    source : callable, optional
        Gives the losses ``[v]`` that ``mu`` and ``sigma`` come from, such as those of clean
        validation tasks (:func:`clean_losses`); by default they are the losses of the batch.
        In several processes it must give the same numbers in each.
    every : int, default 1
        Steps between two calls of ``source``.
    burn_in : int, default 0
        Steps with the mean of all tasks first.

    Raises
    ------
    ValueError
        Unless ``z_low < z_high``, and if another argument is out of range.

    Notes
    -----
    That the thresholds come from a log-normal model is known to us from a summary of the HeTRoM
    paper; all details are our reconstruction. The default limits are those that public code for
    ranked ranges by its authors uses for the losses themselves, on validation losses. ``sigma``
    is the maximum-likelihood estimate. If it is 0, all losses are equal and all are kept.

    Examples
    --------
    >>> guided = LogNormalGuidance(z_low=-2, z_high=1)
    >>> weights = guided.select(torch.tensor([1.0, 1.1, 0.9, 1.2, 30.0]))
    >>> weights.tolist()
    [0.25, 0.25, 0.25, 0.25, 0.0]
    """

    def __init__(
        self,
        z_low: float = -2.0,
        z_high: float = 1.0,
        *,
        beta: float = 0.9,
        robust: bool = False,
        source: Callable[[], Tensor] | None = None,
        every: int = 1,
        burn_in: int = 0,
    ) -> None:
        if not z_low < z_high:
            raise ValueError(f"z_low must be less than z_high, got {z_low} and {z_high}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {beta}")
        (self.every,) = check_count(every=every)
        self.z_low, self.z_high, self.beta, self.robust = z_low, z_high, beta, robust
        self.source = source
        super().__init__(burn_in)

    @classmethod
    def fractions(
        cls, *, drop_hardest: float = 0.0, drop_easiest: float = 0.0, **settings: Any
    ) -> LogNormalGuidance:
        """The limits that drop these shares of losses that are exactly log-normal.

        ``z_low`` and ``z_high`` are the quantiles ``drop_easiest`` and ``1 - drop_hardest`` of
        the standard normal distribution.

        Examples
        --------
        >>> guided = LogNormalGuidance.fractions(drop_hardest=0.2, drop_easiest=0.1)
        >>> round(guided.z_low, 3), round(guided.z_high, 3)
        (-1.282, 0.842)
        """
        check_shares(drop_hardest, drop_easiest)
        quantile = NormalDist().inv_cdf
        low = quantile(drop_easiest) if drop_easiest else -math.inf
        high = -quantile(drop_hardest) if drop_hardest else math.inf
        return cls(low, high, **settings)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(z_low={self.z_low}, z_high={self.z_high}, "
            f"beta={self.beta}, robust={self.robust}, source={self.source!r}, "
            f"every={self.every}, burn_in={self.burn_in})"
        )

    def _weigh(self, losses: Tensor) -> tuple[Tensor, float, float]:
        check_remembered(losses)
        logs = _logarithms(losses)
        if self.source is None:
            self._update(logs)
        elif self.step % self.every == 0:
            reference = self.source()
            check_losses(reference)
            check_remembered(reference)
            self._update(_logarithms(reference))
        mu, sigma = self.memory["mu"], self.memory["sigma"]
        if sigma <= _TOLERANCE:
            kept, low, high = torch.ones_like(logs), 0.0, math.inf
        else:
            low, high = mu + self.z_low * sigma, mu + self.z_high * sigma
            kept = ((logs >= low - _TOLERANCE) & (logs <= high + _TOLERANCE)).double()
            low, high = math.exp(low), math.exp(high)
        weights = kept / max(1, kept.sum().item())
        return weights.to(losses), low, high

    def _update(self, logs: Tensor) -> None:
        """Move ``mu`` and ``sigma`` towards those of these logarithms."""
        for name, new in zip(("mu", "sigma"), _fit(logs, self.robust), strict=True):
            old = self.memory.get(name, new)
            self.memory[name] = self.beta * old + (1 - self.beta) * new


def clean_losses(
    learner: Learner, sampler: TaskSampler, n_tasks: int = 32, loss: TaskLoss = F.cross_entropy
) -> Tensor:
    """Query losses ``[n_tasks]`` of the sampler's first tasks after adaptation, no gradients.

    As ``source=functools.partial(clean_losses, learner, validation)`` of
    :class:`LogNormalGuidance` it gives the learner's present losses on validation tasks.

    Raises
    ------
    ValueError
        If a task asks for a label that its support set does not have, as a noisy one may:
        a learner that adapts to any number of ways has no output for it.
    """
    rows = []
    for i, task in enumerate(sampler.tasks(range(n_tasks))):
        outputs = learner.adapt(task.support_x, task.support_y)(task.query_x)
        if not task.query_y.is_floating_point() and task.query_y.max() >= outputs.shape[-1]:
            raise ValueError(
                f"task {i} of sampler is not clean: it asks for label {int(task.query_y.max())}, "
                f"its support set has labels up to {int(task.support_y.max())}"
            )
        rows.append(scalar_loss(loss)(outputs, task.query_y.to(outputs.device)).detach())
    return torch.stack(rows)


def _logarithms(losses: Tensor) -> Tensor:
    return losses.detach().to("cpu", torch.float64).clamp(min=_SMALLEST).log()


def _fit(logs: Tensor, robust: bool) -> tuple[float, float]:
    """Center and spread of logarithms ``[n]``."""
    if not robust:
        return logs.mean().item(), logs.std(correction=0).item()
    center = logs.quantile(0.5)
    return center.item(), _MAD_TO_SIGMA * (logs - center).abs().quantile(0.5).item()
