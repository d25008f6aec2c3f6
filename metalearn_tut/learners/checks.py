"""What a learner on the inner loop is refused for, when it is made and not when it trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real

from torch import Tensor

from metalearn_tut.bilevel import ENGINES, Params
from metalearn_tut.bilevel.checks import check_masks
from metalearn_tut.bilevel.implicit import SOLVERS
from metalearn_tut.bilevel.inner import Rate
from metalearn_tut.bilevel.rates import RATE_MODES
from metalearn_tut.checks import check_choice
from metalearn_tut.scoring import Metric, TaskLoss, check_function, check_loss


def check_losses(loss: TaskLoss, inner_loss: TaskLoss | None, metric: Metric | None) -> None:
    """Refuse what is no function of (outputs, targets)."""
    check_loss("loss", loss)
    check_loss("inner_loss", inner_loss, optional=True)
    check_function("metric", metric, optional=True)


def check_rate_mode(rate_mode: str, inner_lr: Rate, inner_steps: int) -> None:
    """Refuse learned rates that have no number to start at, or no step."""
    check_choice("rate_mode", rate_mode, RATE_MODES)
    if rate_mode != "fixed" and not isinstance(inner_lr, Real):
        raise ValueError(f"rate_mode={rate_mode!r} start at one number, got inner_lr={inner_lr!r}")
    if rate_mode == "per_layer_and_step" and inner_steps < 1:
        raise ValueError(
            f"rate_mode='per_layer_and_step' needs inner_steps >= 1, got {inner_steps}"
        )


def check_engine(
    engine: str,
    rate_mode: str,
    deferred: bool,
    multi_step_loss: float,
    solver: tuple[str, int],
) -> None:
    """Refuse what no engine could run, or this one could not."""
    check_choice("engine", engine, ENGINES)
    check_choice("solver", solver[0], SOLVERS)
    if solver != ("cg", 20) and engine != "implicit":
        raise ValueError(f"solver and solver_steps are of engine='implicit', got engine={engine!r}")
    if not 0 <= multi_step_loss <= 1:
        raise ValueError(f"multi_step_loss must be in 0..1, got {multi_step_loss}")
    if deferred and engine == "vectorised":
        raise ValueError("engine='vectorised' cannot be deferred; use engine='functional'")
    if rate_mode != "fixed" and engine == "implicit":
        raise ValueError(f"engine='implicit' cannot learn rates, got rate_mode={rate_mode!r}")


def check_rates(rate_mode: str, stepped: Collection[str], rates: Collection[str]) -> None:
    """Refuse to step a parameter that has no rate, since it was frozen when rates were made."""
    if rate_mode == "shared":
        return
    if missing := [n for n in stepped if f"rates.{n}" not in rates]:
        raise ValueError(
            f"rate_mode={rate_mode!r} has no rate for {', '.join(missing)}, which was frozen when "
            "the learner was made: make a new one, or freeze it again"
        )


def check_new_masks(params: Params, masks: Mapping[str, Tensor]) -> None:
    """Refuse masks of no parameter or another shape, and such that take weights that are frozen."""
    check_masks(masks, params)
    for name, mask in masks.items():
        p = params[name]
        if not p.requires_grad and p.detach()[mask.to(p.device) == 0].any():
            raise ValueError(f"masks[{name!r}] would prune {name}, which is frozen")
