"""One step of the outer loop: an optimizer, its scheduler, and all that the next step needs."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from metalearn_tut.bilevel import Params
from metalearn_tut.checks import check_choice
from metalearn_tut.files.content import described
from metalearn_tut.training.kept_state import join, split
from metalearn_tut.training.outer_rates import SCHEDULES, cosine, parameter_groups
from metalearn_tut.training.processes import Processes

FIRST = ("optimizer.", "scheduler.")  # of the names of their tensors in a checkpoint


class OuterStep:
    """Descends aggregated task losses with any PyTorch optimizer.

    Parameters
    ----------
    metas : dict of name to Tensor
        The meta-parameters.
    optimizer : torch.optim.Optimizer
        Of all of them.
    scheduler : LRScheduler, optional
        Of that optimizer; it goes on by one in every step.

    Raises
    ------
    ValueError
        If the optimizer has not exactly these parameters (frozen ones aside), or if one of the
        two needs more than gradients, as ``LBFGS`` and ``ReduceLROnPlateau`` do.
    """

    def __init__(
        self, metas: Params, optimizer: Optimizer, scheduler: LRScheduler | None = None
    ) -> None:
        _check_step("optimizer", optimizer)
        _check_parameters(metas, optimizer)
        if scheduler is not None:
            _check_step("scheduler", scheduler)
            if scheduler.optimizer is not optimizer:
                raise ValueError("scheduler must be one of this optimizer, and is another's")
        self.metas, self.optimizer, self.scheduler = metas, optimizer, scheduler

    @classmethod
    def adam(
        cls, metas: Params, outer_lr: float | Mapping[str, float], schedule: str, steps: int
    ) -> OuterStep:
        """Adam at ``outer_lr``, whose schedule is ``"cosine"`` or ``"constant"``.

        For the rates see :func:`~metalearn_tut.training.outer_rates.parameter_groups`.
        """
        check_choice("schedule", schedule, SCHEDULES)
        optimizer = torch.optim.Adam(parameter_groups(metas, outer_lr))
        if schedule == "constant":
            return cls(metas, optimizer)
        return cls(metas, optimizer, LambdaLR(optimizer, lambda step: cosine(step, steps)))

    def settings(self) -> dict[str, Any]:
        """Classes and hyperparameters, as JSON."""
        names = {id(p): name for name, p in self.metas.items()}
        found = {"class": _name(self.optimizer)}
        for i, group in enumerate(self.optimizer.param_groups):
            # a scheduler leaves "initial_lr" there, and has it, too
            given = {n: v for n, v in group.items() if n not in ("params", "initial_lr")}
            own = described(given)
            own["parameters"] = [names[id(p)] for p in group["params"] if id(p) in names]
            found[f"group {i}"] = own
        return {"optimizer": found, "scheduler": self._scheduler_settings()}

    def _scheduler_settings(self) -> dict[str, Any] | None:
        if self.scheduler is None:
            return None
        own = {n: v for n, v in vars(self.scheduler).items() if n != "optimizer"}
        return {"class": _name(self.scheduler), **described(own, known=[self.optimizer])}

    def backward(
        self, losses: Tensor, weights: Tensor, clip: float | None, processes: Processes
    ) -> Tensor:
        """Set the gradient of ``weights [T] @ losses [T]``; returns its norm, before clipping.

        Every process knows the weights of all tasks; each adds its own tasks' share.
        """
        groups = list(self._groups())
        trained = [p for group in groups for p in group]
        for p in trained:
            p.grad = torch.zeros_like(p)
        torch.autograd.backward(losses, weights[processes.rank :: processes.world])
        processes.sum_in_place([p.grad for p in trained])
        largest = math.inf if clip is None else clip
        return torch.stack([torch.nn.utils.clip_grad_norm_(g, largest) for g in groups]).norm()

    def _groups(self) -> Iterator[list[Tensor]]:
        for group in self.optimizer.param_groups:
            if trained := [p for p in group["params"] if p.requires_grad]:
                yield trained

    def advance(self) -> None:
        """Step optimizer and scheduler."""
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def skip(self) -> None:
        """Step the scheduler alone, whose clock is that of the run."""
        if self.scheduler is not None:
            with warnings.catch_warnings():  # PyTorch takes a skipped first step for a mistake
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on beside the parameters: tensors by name, and JSON.

        Raises
        ------
        ValueError
            If it cannot be kept in a file, naming what.
        """
        tensors: dict[str, Tensor] = {}
        rest = {"optimizer": split(self.optimizer.state_dict(), "optimizer", tensors)}
        if self.scheduler is not None:
            rest["scheduler"] = split(self.scheduler.state_dict(), "scheduler", tensors)
        return tensors, rest

    def load(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        kept = join(rest["optimizer"], tensors)
        self.optimizer.load_state_dict(kept)
        places = [p for group in self.optimizer.param_groups for p in group["params"]]
        for place, of_p in kept["state"].items():
            p = places[place]
            for key, value in of_p.items():
                if isinstance(value, Tensor) and value.shape == p.shape and key != "step":
                    # like p also in memory layout, on which the last bit of an update may depend
                    like = torch.empty_like(p, dtype=value.dtype, requires_grad=False)
                    self.optimizer.state[p][key] = like.copy_(value)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(join(rest["scheduler"], tensors))


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_step(what: str, value: Any) -> None:
    """Refuse what cannot make a step by itself."""
    for name, parameter in inspect.signature(type(value).step).parameters.items():
        if name != "self" and parameter.default is parameter.empty:
            raise ValueError(
                f"{what} must step without arguments, and {type(value).__name__} needs {name!r}"
            )


def _check_parameters(metas: Params, optimizer: Optimizer) -> None:
    own = {id(p) for p in metas.values()}
    given = [p for group in optimizer.param_groups for p in group["params"]]
    for p in given:
        if p.requires_grad and id(p) not in own:
            raise ValueError(
                f"optimizer has a parameter of shape {list(p.shape)} that is none of the learner's"
            )
    there = {id(p) for p in given}
    if missing := [name for name, p in metas.items() if id(p) not in there]:
        raise ValueError(
            f"optimizer must have every meta-parameter, and {missing[0]!r} is missing; "
            "freeze what is not to be trained: requires_grad_(False)"
        )
