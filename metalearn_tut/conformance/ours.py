"""The engines of this package as functions that can be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel.forward import completed, stepped_groups
from metalearn_tut.conformance.judge import MetaGradient
from metalearn_tut.scoring import TaskLoss
from metalearn_tut.tasks.task import Task, TaskBatch

Rates = Mapping[str, Tensor]


def unrolled(**always: Any) -> MetaGradient:
    """One of the engines that go through the inner steps, with some settings of it."""

    def meta_gradient(
        module: nn.Module,
        loss: TaskLoss,
        tasks: Sequence[Task],
        *,
        inner_lr: float,
        inner_steps: int,
        first_order: bool = False,
        prox_weight: float = 0.0,
        rates: Rates | None = None,
    ) -> dict[str, Tensor]:
        settings = {"loss": loss, "first_order": first_order, "prox_weight": prox_weight, **always}
        if rates is not None:
            return with_rates(module, tasks, rates, inner_steps, **settings)
        settings |= {"inner_lr": inner_lr, "inner_steps": inner_steps}
        return bilevel.meta_gradient(module, tasks, **settings)

    return meta_gradient


def with_rates(
    module: nn.Module, tasks: Sequence[Task], rates: Rates, steps: int, **settings: Any
) -> dict[str, Tensor]:
    """Learned rates are meta-parameters beside the start, as they are in ``MAML``."""
    own = bilevel.parameters_of(module)
    metas = bilevel.trainable_of(module) | {f"rates.{n}": r for n, r in rates.items()}

    def start(metas: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        params = completed(own, {n: p for n, p in metas.items() if n in own})
        return params, [{n: rate_at(k, n, metas, params) for n in rates} for k in range(steps)]

    def rate_at(step: int, name: str, metas: Mapping[str, Tensor], params: Rates) -> Tensor:
        rate = metas[f"rates.{name}"]  # with a dimension of tasks before its own if stacked
        rate = rate[..., step] if rates[name].ndim else rate
        return rate.reshape(rate.shape + (1,) * (params[name].ndim - rate.ndim))

    settings |= {"steps": steps, "groups": stepped_groups(module, None)}
    found = bilevel.task_gradients(module, TaskBatch.stack(tasks), metas, start, **settings)
    return {name: g.mean(0) for name, g in found.gradients.items()}


def implicit(
    module: nn.Module,
    loss: TaskLoss,
    tasks: Sequence[Task],
    *,
    inner_lr: float,
    inner_steps: int,
    prox_weight: float = 0.0,
) -> dict[str, Tensor]:
    """``engine="implicit"``, which is for an inner loop with a pull that has converged."""
    if not prox_weight:
        return NotImplemented
    settings = {"inner_lr": inner_lr, "inner_steps": inner_steps, "prox_weight": prox_weight}
    return bilevel.meta_gradient(module, tasks, loss=loss, engine="implicit", **settings)


functional = unrolled(engine="functional")
recomputed = unrolled(engine="functional", recompute=True)
vectorised = unrolled(engine="vectorised")
higher = unrolled(engine="higher")
ENGINES: dict[str, Callable[..., Any]] = {
    "functional": functional,
    "recomputed": recomputed,
    "vectorised": vectorised,
    "higher": higher,
    "implicit": implicit,
}
