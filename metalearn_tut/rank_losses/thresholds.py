"""The same range of ranks by thresholds that outlive a batch, instead of a sort of each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metalearn_tut.checks import check_choice
from metalearn_tut.rank_losses.aggregate import check_remembered, uniform
from metalearn_tut.rank_losses.ranked_range import RankedRange
from metalearn_tut.rank_losses.variational import difference_of_tops, nested_hinges

MODES = ("sgda", "sgda_f2")
INITS = ("correct", "authors")


class ThresholdTracker(RankedRange):
    """Ranked range by descent on a lower and ascent on an upper threshold of the loss.

    Thresholds and meta-parameters are updated at once, from one batch: the tasks are weighted
    by the derivative of F1 (or F2) with respect to their losses, divided by ``k - m``, at the
    thresholds before their update, which is

    ``low <- low - eta_t/n · dF/dlow``, ``high <- high + eta_t/n · dF/dhigh``,
    ``eta_t = rate / (1 + t)**decay``.

    So ``low`` follows the k-th largest of all losses and ``high`` the m-th, whatever the batch,
    and the number of tasks kept varies; it can be 0. With ``m = 0`` there is no upper
    threshold, with ``k = n`` no lower one.

    Parameters
    ----------
    m, k : int
        As for :class:`RankedRange`; also ``ThresholdTracker.fractions(...)``.
    mode : {"sgda", "sgda_f2"}
        F1, :func:`difference_of_tops`, or F2, :func:`nested_hinges`.
    rate : float, default 0.1
        Step size of both thresholds, in units of the loss.
    high_rate : float, optional
        Step size of the upper one, if different.
    decay : float, default 0.5
        Exponent of its decay; 0 keeps it.
    burn_in : int, default 10
        Steps with the mean of all tasks first. From their losses the thresholds start; with 0,
        from the first batch, which they then select from.
    init : {"correct", "authors"}
        ``"correct"``: half way between the k-th and the (k+1)-th largest of these losses, and
        the m-th and the (m+1)-th. ``"authors"``, for ``"sgda_f2"``: ``low`` and ``gap`` at the
        k-th and m-th largest, as in the code that F2 is from. As ``gap`` is a difference, it
        starts too large.
    sharpness : float, optional
        For ``"sgda"``: smooth the hinges with this a, so that weights are
        ``s(a(l - low)) - s(a(l - high))`` over ``k - m``, s the logistic function.

    Raises
    ------
    ValueError
        If an argument is out of range, or of the other mode.

    Notes
    -----
    Simultaneous updates with one step size are what public code by HeTRoM's authors does for
    examples in place of tasks; that HeTRoM itself does so is our reconstruction. Weights are
    those of the average (AoRR), not of the batch's share in a population, so that learning
    rates do not depend on m and k.

    Examples
    --------
    >>> aggregate = ThresholdTracker(m=1, k=3, burn_in=1)
    >>> losses = torch.tensor([5.0, 1.0, 4.0, 2.0])
    >>> aggregate(losses).item(), aggregate(losses).item()  # the mean, then ranks 2 and 3
    (3.0, 3.0)
    >>> aggregate.log[1]
    Selection(low=1.5, high=4.5, kept=(2, 3))
    """

    def __init__(
        self,
        m: int,
        k: int,
        *,
        mode: str = "sgda",
        rate: float = 0.1,
        high_rate: float | None = None,
        decay: float = 0.5,
        burn_in: int = 10,
        init: str = "correct",
        sharpness: float | None = None,
    ) -> None:
        _check_settings(mode, init, sharpness)
        for name, value in (("rate", rate), ("high_rate", high_rate), ("sharpness", sharpness)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= decay < math.inf:
            raise ValueError(f"decay must be >= 0, got {decay}")
        self.mode, self.init, self.sharpness = mode, init, sharpness
        self.rates, self.decay = (rate, rate if high_rate is None else high_rate), decay
        super().__init__(m, k, burn_in=burn_in)

    def _settings(self) -> str:
        return (
            f", mode={self.mode!r}, rates={self.rates}, decay={self.decay}, init={self.init!r}, "
            f"sharpness={self.sharpness}"
        )

    def _weigh(self, losses: Tensor) -> tuple[Tensor, float | None, float | None]:
        check_remembered(losses)
        m, k = self.ranks(n := len(losses))
        exact = losses.to("cpu", torch.float64)
        if self.step < self.burn_in:
            self.memory.setdefault("burn_in", []).extend(exact.tolist())
            return uniform(losses), None, None
        if "thresholds" not in self.memory:
            collected = self.memory.pop("burn_in", exact.tolist())
            self.memory["thresholds"] = self._start(collected, m / n, k / n)
        low, high = self.memory["thresholds"]
        weights, slopes = self._derivatives(exact, m, k)
        eta = [rate / (1 + self.step - self.burn_in) ** self.decay / n for rate in self.rates]
        self.memory["thresholds"] = [
            None if low is None else low - eta[0] * slopes[0],
            None if high is None else high + eta[1] * slopes[1],
        ]
        if self.mode == "sgda_f2" and low is not None and high is not None:
            high = low + high
        return (weights / (k - m)).to(losses), low, high

    def _start(self, losses: list[float], m: float, k: float) -> list[float | None]:
        """Lower and upper threshold (or gap) from collected losses, for these shares of them."""
        ranked = sorted(losses, reverse=True)
        m, k = round(m * len(ranked)), round(k * len(ranked))
        place = boundary if self.init == "correct" else lambda ranked, r: ranked[r - 1]
        low = place(ranked, k) if k < len(ranked) else None
        high = place(ranked, m) if m else None
        if None not in (low, high) and self.mode == "sgda_f2" and self.init == "correct":
            high = high - low
        return [low, high]

    def _derivatives(self, losses: Tensor, m: int, k: int) -> tuple[Tensor, list[float | None]]:
        """Of F1 or F2 with respect to the losses ``[n]`` and to each threshold there is."""
        places = [
            None if t is None else torch.tensor(t, dtype=torch.float64, requires_grad=True)
            for t in self.memory["thresholds"]
        ]
        leaf = losses.clone().requires_grad_()
        with torch.enable_grad():
            if self.mode == "sgda":
                value = difference_of_tops(leaf, m, k, *places, self.sharpness)
            else:
                value = nested_hinges(leaf, m, k, *places)
        there = [t for t in places if t is not None]
        by_loss, *by_threshold = torch.autograd.grad(value, [leaf, *there])
        rest = iter(by_threshold)
        slopes = [None if t is None else next(rest).item() for t in places]
        return by_loss.clamp(min=0), slopes  # F1's is -1 between thresholds that have crossed


def boundary(ranked: list[float], rank: int) -> float:
    """Half way between two neighbours of losses in descending order, ranks ``rank`` and next.

    At the loss of that rank itself, comparisons would be off by one task.
    """
    return (ranked[rank - 1] + ranked[rank]) / 2


def _check_settings(mode: str, init: str, sharpness: float | None) -> None:
    check_choice("mode", mode, MODES)
    check_choice("init", init, INITS)
    if init == "authors" and mode != "sgda_f2":
        raise ValueError(f"init='authors' is for mode='sgda_f2', got mode={mode!r}")
    if sharpness is not None and mode != "sgda":
        raise ValueError(f"sharpness is for mode='sgda', got mode={mode!r}")
