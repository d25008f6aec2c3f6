"""What every rank loss is: task losses in, constant task weights out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_tut.checks import whole_number


class Selection(NamedTuple):
    """One step's record: the thresholds in units of the loss (None where there is none), and
    the positions in the batch of the tasks with a weight above 0."""

    low: float | None
    high: float | None
    kept: tuple[int, ...]


class TaskAggregate:
    """Base of the aggregates here: ``sum_i weight_i · loss_i`` with detached weights.

    A subclass says how the weights come about, in ``_weigh``. An aggregate may remember
    earlier steps. Its memory is plain JSON, so that a training run can be interrupted and
    resumed; :func:`metalearn_tut.training.meta_train` clears it when a run begins.

    Parameters
    ----------
    burn_in : int, default 0
        During so many steps the weights are those of the mean, 1/n each.

    Attributes
    ----------
    step : int
        Steps since the run began.
    log : list of Selection
        What was selected in every step that this process has made.
    keeps_log : bool, default False
        Set it to True to have the log in ``state_dict()``, too, some 100 bytes a step: a run
        that is resumed then has the whole log.
    """

    def __init__(self, burn_in: int = 0) -> None:
        self.burn_in, self.keeps_log = whole_number("burn_in", burn_in), False
        self.load_state_dict({})

    def __call__(self, losses: Tensor) -> Tensor:
        """The aggregated loss of ``losses [n]``, a scalar; its gradient is the weights.

        Counts as one step.
        """
        weights = self.select(losses)
        kept = weights > 0
        chosen, shares = losses[kept], weights[kept]  # never 0 · inf, which would be NaN
        if len(shares) and bool((shares == 1 / len(shares)).all()):
            return chosen.mean()  # equal to the mean of all tasks to the bit, if all are kept
        return shares @ chosen

    def select(self, losses: Tensor) -> Tensor:
        """Weights ``[n]`` for ``losses [n]``: >= 0, without gradient, all 0 if none is kept.

        Counts as one step.

        Raises
        ------
        ValueError
            If the losses are no vector, are empty, or hold a NaN or minus infinity; and by an
            aggregate that remembers them if one is infinite.
        """
        check_losses(losses)
        losses = losses.detach()
        weights, low, high = self._weigh(losses)
        if self.step < self.burn_in:
            weights, low, high = uniform(losses), None, None
        kept = tuple(torch.nonzero(weights).flatten().tolist())
        self.log.append(Selection(low, high, kept))
        self.step += 1
        return weights

    def _weigh(self, losses: Tensor) -> tuple[Tensor, float | None, float | None]:
        """Weights of detached losses, with the thresholds they come from."""
        raise TypeError(f"{type(self).__name__} must define _weigh(losses)")

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, as JSON."""
        state = {"step": self.step, "memory": copy.deepcopy(self.memory)}
        if self.keeps_log:
            state["log"] = [[low, high, list(kept)] for low, high, kept in self.log]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; from ``{}`` begin anew."""
        self.step = state.get("step", 0)
        self.memory: dict[str, Any] = copy.deepcopy(dict(state.get("memory", {})))
        self.log = [Selection(low, high, tuple(kept)) for low, high, kept in state.get("log", [])]


def check_losses(losses: Tensor) -> None:
    """Refuse what cannot be ranked; losses of plus infinity can."""
    if losses.ndim != 1 or not len(losses) or not losses.is_floating_point():
        raise ValueError(
            "losses must be a vector of at least one floating-point number, "
            f"got shape {list(losses.shape)} of {losses.dtype}"
        )
    if bool((bad := losses.isnan()).any()):
        positions = torch.nonzero(bad).flatten().tolist()
        raise ValueError(f"losses must not be NaN, got NaN for tasks {positions} of the batch")
    if bool((losses == -torch.inf).any()):
        raise ValueError("losses must not be minus infinity")


def check_remembered(losses: Tensor) -> None:
    """Refuse losses that would be in the way of all later steps: one infinite mean is for ever."""
    if not bool(losses.isfinite().all()):
        positions = torch.nonzero(~losses.isfinite()).flatten().tolist()
        raise ValueError(f"losses must be finite, got others for tasks {positions} of the batch")


def uniform(losses: Tensor) -> Tensor:
    """The weights ``[n]`` of the mean."""
    return torch.full_like(losses, 1 / len(losses))
