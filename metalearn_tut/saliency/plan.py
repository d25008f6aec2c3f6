"""The plan of a pruning: which weights go, how many in each round, when training follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.checks import check_choice, check_count, check_index, check_seed
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.gradient_scores import KINDS
from metalearn_tut.saliency.masks import select

SCORES = ("anp", "lobs", "magnitude", "random", *KINDS)
Retrain = Callable[[MAML, int], Any]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Which weights go in a round, and what becomes of the others.

    Parameters
    ----------
    method : {"anp", "lobs", "magnitude", "random", "snip", "meta_snip", "meta_taylor"}
        The score. ``"anp"``: :func:`obs_scores` with the Hessians at adapted weights;
        ``"lobs"``: at the meta-learned weights (``inner_steps=0``); the others: see
        :func:`magnitude_scores`, :func:`random_scores` and :func:`gradient_scores`.
    n_tasks, first_task : int, default 20 and 0
        Tasks per round, and the index of the very first.
    layers : sequence of names, optional
        Layers that are pruned and counted; all by default. See :func:`prunable_layers`.
    allocation, spare
        Which layers give how much: see :func:`select`.
    inner_steps, data, patch_stride, ridge
        See :func:`layer_hessians`.
    guard, update_hinv
        See :func:`obs_scores` and :func:`prune_layer`.
    compensate : bool, default True
        Whether the weights that stay make up for those that go, whatever the score: a score
        says which weights go, this what becomes of the others.

        =====================  ===========================  ====================================
        ..                     ``compensate=True``          ``compensate=False``
        =====================  ===========================  ====================================
        ``"anp"``, ``"lobs"``  OBS, whose score assumes it  OBS's ranking, the rest stays
        the others             the same surgery, with the   as magnitude, SNIP and the like are
                               Hessians of ``"anp"``        published: the rest stays
        =====================  ===========================  ====================================
    seed : int, default 0
        Of ``"random"``: one ranking for all rounds.

    Raises
    ------
    ValueError, TypeError, IndexError
        If ``method``, a switch or a count is none.
    """

    method: str = "anp"
    n_tasks: int = 20
    first_task: int = 0
    layers: Sequence[str] | None = None
    allocation: str = "uniform"
    spare: Sequence[str] = ()
    inner_steps: int | None = None
    data: str = "support"
    patch_stride: int = 1
    ridge: float = 1e-6
    guard: float = 1e-5
    update_hinv: bool = False
    compensate: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, SCORES)
        check_choice("compensate", self.compensate, (True, False))
        check_choice("update_hinv", self.update_hinv, (True, False))
        check_count(n_tasks=self.n_tasks)
        check_index(self.first_task)
        check_seed(self.seed)

    @property
    def has_hessians(self) -> bool:
        """Whether the score itself needs the layers' Hessians."""
        return self.method in ("anp", "lobs")

    @property
    def hessian(self) -> dict[str, Any]:
        """The arguments of :func:`layer_hessians`, but for the inner steps."""
        names = ("layers", "data", "patch_stride", "ridge")
        return {name: getattr(self, name) for name in names}

    @property
    def surgery(self) -> dict[str, Any]:
        """The arguments that :func:`obs_scores` and :func:`prune_layer` share."""
        return {"guard": self.guard, "update_hinv": self.update_hinv}

    def in_round(self, number: int) -> Criterion:
        """The same with the tasks of a round, counted from 1."""
        first = int(self.first_task) + (number - 1) * int(self.n_tasks)
        return replace(self, first_task=first)


@dataclass(frozen=True)
class Rounds:
    """How much goes in each round, and the training that follows.

    Parameters
    ----------
    schedule : sequence of float, default nine rounds down to 15 %
        Share of all prunable weights (biases included, norms not) to take in each round.
    retrain : callable, optional
        ``retrain(learner, r)`` trains the masked learner after round r = 1, 2, ..., say with
        :func:`~metalearn_tut.training.meta_train`. A mapping that it returns (numbers, of any
        library) goes into the history as JSON.
    note : mapping, optional
        More for the files, by content, such as what ``retrain`` depends on: a run with another
        note is not gone on with.

    Raises
    ------
    ValueError
        If ``schedule`` is no sequence of numbers.
    """

    schedule: Sequence[float] = (0.1,) * 8 + (0.05,)
    retrain: Retrain | None = None
    note: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        try:
            shares = [float(share) for share in self.schedule]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"schedule must be a sequence of shares, one for each round, got {self.schedule!r}"
            ) from error
        object.__setattr__(self, "schedule", shares)


def schedule_to(keep: float, step: float = 0.1, now: float = 1.0) -> list[float]:
    """Rounds of equal shares, and at last what remains, from ``now`` down to ``keep``.

    Raises
    ------
    ValueError
        If ``step`` is not positive, or ``keep`` not between 0 and ``now``.

    Examples
    --------
    >>> schedule_to(0.65), schedule_to(0.5, 0.25)
    ([0.1, 0.1, 0.1, 0.05], [0.25, 0.25])
    """
    if not now <= 1:
        raise ValueError(f"now must be a share of at most 1, got {now}")
    if not (0 < keep < now and step >= 1e-6):
        raise ValueError(
            f"keep must be between 0 and {now:.3g}, what there is, and step positive, got "
            f"keep={keep:g} and step={step:g}"
        )
    rounds = int((now - keep) / step)
    rest = round(now - keep - rounds * step, 9)
    return [step] * rounds + [rest] * (rest > 0)


def check_schedule(
    masks: Mapping[str, Tensor],
    schedule: Sequence[float],
    *,
    allocation: str = "uniform",
    spare: Sequence[str] = (),
    first: int = 1,
) -> None:
    """Refuse, before any work, a schedule that takes more than there is.

    Raises
    ------
    ValueError
        Naming the round (they are counted from ``first``) and the layer.
    """
    # scores for which a layer keeps its weights longest: if these fail, all do
    scores = {n: torch.full(m.shape, float(m.ndim > 1)) for n, m in masks.items()}
    masks = {n: m.cpu() for n, m in masks.items()}
    for number, step in enumerate(schedule, start=first):
        try:
            masks = select(scores, masks, step, allocation=allocation, spare=spare)
        except ValueError as error:
            raise ValueError(f"schedule cannot be followed in round {number}: {error}") from None
