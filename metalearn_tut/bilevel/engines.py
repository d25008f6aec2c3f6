"""Meta-gradients: one definition, several ways to compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from metalearn_tut.bilevel.checks import (
    check_inner,
    checked_support,
    prepare,
    ways_of,
)
from metalearn_tut.bilevel.forward import (
    check_stepped,
    completed,
    functional,
    norm_of,
    parameters_of,
    stepped_groups,
    trainable_of,
)
from metalearn_tut.bilevel.halves import in_halves
from metalearn_tut.bilevel.implicit import implicit_gradients
from metalearn_tut.bilevel.inner import Params, Rate, inner_path, private
from metalearn_tut.bilevel.objective import (
    DeferredGradients,
    Row,
    TaskGradients,
    TaskLoss,
    adapted,
    collect,
    query_loss,
)
from metalearn_tut.bilevel.safety import assert_second_order_safe
from metalearn_tut.bilevel.vectorised import vectorised
from metalearn_tut.bilevel.with_higher import with_higher
from metalearn_tut.checks import check_choice
from metalearn_tut.scoring import scalar_loss
from metalearn_tut.tasks.task import Task, TaskBatch

ENGINES = ("functional", "higher", "vectorised", "implicit")

Start = Callable[[Params], tuple[Params, Rate]]
"""Meta-parameters -> (where the inner loop begins, its rates)."""


def meta_gradient(
    model: nn.Module,
    batch: TaskBatch | Task | Sequence[Task],
    *,
    inner_lr: Rate,
    inner_steps: int,
    engine: str = "functional",
    first_order: bool = False,
    **settings: Any,
) -> Params:
    """Gradient of the mean query loss after adaptation with respect to the initial parameters.

    ``(1/T) sum_i d/dtheta l(f_{theta_i'}; query_i)`` with ``theta_i'`` the result of
    ``inner_steps`` steps of size ``inner_lr`` on the support loss (Finn et al. 2017,
    algorithm 1, line 8).

    Parameters
    ----------
    model : nn.Module
        Its parameters are theta, those that are not frozen (``requires_grad``); nothing in it is
        changed.
    batch : TaskBatch, Task or sequence of Task
        Images ``uint8`` or floating; labels ``int64`` in 0..ways-1.
    inner_lr : float, Tensor, mapping or sequence
        See :func:`inner_path`.
    inner_steps : int
        Number of inner steps, >= 0; 0 gives the ordinary gradient of the query loss.
    engine : {"functional", "higher", "vectorised", "implicit"}
        How to compute it. The first three agree to rounding; ``"implicit"`` needs
        ``prox_weight`` > 0 and a converged inner loop.
    first_order : bool, default False
        Drop the second-order term (FOMAML).
    **settings
        ``loss``, ``inner_loss``, ``step_weights`` of :func:`query_loss`; ``masks``,
        ``groups``, ``prox_weight``, ``recompute`` of :func:`inner_path`; ``solver``,
        ``solver_steps`` of :func:`implicit_gradients`.

    Returns
    -------
    dict of name to Tensor
        One gradient per parameter of the model that is not frozen, of its shape.

    Raises
    ------
    ValueError
        For an unknown engine, ``inner_steps < 0``, labels outside 0..ways-1, inputs that are
        not finite, masks and groups that name no parameter, or a model that the engine cannot
        differentiate twice (:func:`assert_second_order_safe`).

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> batch = tasks.from_arrays(x, y).sampler(ways=3, shots=1, queries=2).batch(0, 2)
    >>> grads = meta_gradient(nn.Linear(4, 3), batch, inner_lr=0.1, inner_steps=1)
    >>> {name: tuple(g.shape) for name, g in grads.items()}
    {'weight': (3, 4), 'bias': (3,)}
    """
    if not isinstance(batch, TaskBatch):
        batch = TaskBatch.stack([batch] if isinstance(batch, Task) else batch)
    own, metas = parameters_of(model), trainable_of(model)
    check_stepped(model, metas)
    result = task_gradients(
        model,
        batch,
        metas,
        lambda params: (completed(own, params), inner_lr),
        engine=engine,
        steps=inner_steps,
        first_order=first_order,
        **settings | {"groups": stepped_groups(model, settings.get("groups"))},
    )
    return {n: g.mean(0) for n, g in result.gradients.items()}


def task_gradients(
    model: nn.Module,
    batch: TaskBatch,
    metas: Params,
    start: Start,
    *,
    steps: int,
    engine: str = "functional",
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    deferred: bool = False,
    **settings: Any,
) -> TaskGradients | DeferredGradients:
    """Per-task query losses and meta-gradients by one of the engines.

    Parameters
    ----------
    model : nn.Module
    batch : TaskBatch
        T tasks; ``uint8`` images are turned into floats here.
    metas : dict of name to Tensor
        The meta-parameters.
    start : callable
        Meta-parameters -> (inner start, inner rates).
    steps : int
        Number of inner steps.
    engine : str
        One of ``ENGINES``.
    loss, inner_loss : callable
        (outputs, targets) -> scalar on the query set, and on the support set if different.
    deferred : bool, default False
        Compute losses now and leave each task's meta-gradient to a call, for tasks that may
        not be needed. Not for ``"vectorised"``, whose tasks share one graph.
    **settings
        Further arguments of :func:`query_loss` and :func:`inner_path`; for ``"implicit"``
        those of :func:`implicit_gradients`.
    """
    check_choice("engine", engine, ENGINES)
    if deferred and engine == "vectorised":
        raise ValueError("engine='vectorised' cannot be deferred; use engine='functional'")
    params, lr = start(metas)
    masks, groups = settings.get("masks"), settings.get("groups")
    check_inner(params, steps, lr, masks, groups, settings.get("prox_weight", 0.0))
    assert_second_order_safe(model, engine, first_order=bool(settings.get("first_order")))
    batch = prepare(batch, params, ways_of(model, params), (inner_loss or loss, loss))
    inner_loss = scalar_loss(inner_loss, "inner_loss") if inner_loss else scalar_loss(loss)
    settings |= {"steps": steps, "loss": scalar_loss(loss), "inner_loss": inner_loss}
    with torch.enable_grad():
        if engine == "implicit":
            return implicit_gradients(model, batch, metas, start, deferred=deferred, **settings)
        if engine == "vectorised":
            return stacked(model, batch, metas, start, **settings)
        if engine == "functional" and not deferred:
            return in_halves(model, batch, metas, start, **settings)
        settings |= {"engine": engine, "deferred": deferred}
        return looped(model, batch, metas, start, **settings)


def looped(
    model: nn.Module,
    batch: TaskBatch,
    metas: Params,
    start: Start,
    *,
    engine: str = "functional",
    deferred: bool = False,
    **settings: Any,
) -> TaskGradients | DeferredGradients:
    """One task after another; unless deferred, a task's graph is freed before the next is built."""
    call, norm = functional(model), norm_of(model)
    leaves = {n: p.detach().requires_grad_() for n, p in metas.items()}

    def row(task: Task) -> Row:
        params, lr = start(leaves)
        forward, path = with_higher(model) if engine == "higher" else (call, inner_path)
        value, outputs = query_loss(
            forward, private(params), task, lr=lr, norm=norm, path=path, **settings
        )

        def gradients() -> Sequence[Tensor]:
            return torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)

        return value.detach(), outputs.detach(), gradients

    return collect(metas, row, batch, deferred)


def stacked(
    model: nn.Module,
    batch: TaskBatch,
    metas: Params,
    start: Start,
    *,
    loss: TaskLoss,
    inner_loss: TaskLoss,
    **settings: Any,
) -> TaskGradients:
    """All tasks in one graph: every task gets its own copy of the meta-parameters."""
    tasks = len(batch)
    copies = {
        n: p.detach().expand(tasks, *p.shape).clone().requires_grad_() for n, p in metas.items()
    }
    params, lr = start(copies)
    losses, outputs = query_loss(
        vectorised(model, tasks),
        params,
        batch,
        lr=lr,
        loss=vmap(loss),
        inner_loss=vmap(inner_loss),
        norm=norm_of(model),
        axis=1,
        **settings,
    )
    grads = torch.autograd.grad(losses.sum(), list(copies.values()), materialize_grads=True)
    return TaskGradients(losses.detach(), outputs.detach(), dict(zip(metas, grads, strict=True)))


def adapt(
    model: nn.Module,
    support_x: Tensor,
    support_y: Tensor,
    *,
    inner_lr: Rate,
    inner_steps: int,
    params: Params | None = None,
    loss: TaskLoss = F.cross_entropy,
    **inner: Any,
) -> Params:
    """The parameters after adapting to one support set; the model itself is not changed.

    Parameters
    ----------
    model : nn.Module
    support_x : Tensor [N·K, ...]
        ``uint8`` images or floating inputs.
    support_y : Tensor [N·K]
        Labels in 0..ways-1, or real targets with a regression ``loss``.
    inner_lr, inner_steps
        Rate and number of steps; see :func:`inner_path`.
    params : dict of name to Tensor, optional
        Where to start instead of the model's own parameters.
    loss : callable, default cross entropy
        (outputs, targets) -> scalar.
    **inner
        ``masks``, ``groups``, ``first_order``, ``prox_weight``, ``recompute``.

    Returns
    -------
    dict of name to Tensor
        Adapted parameters; differentiable with respect to the start unless called inside
        ``torch.no_grad()``, where memory does not grow with the number of steps.
    """
    start = parameters_of(model) if params is None else params
    inner |= {"groups": stepped_groups(model, inner.get("groups"))}
    inner |= {"steps": inner_steps, "lr": inner_lr}
    x, y = checked_support(model, start, support_x, support_y, loss=loss, **inner)
    return adapted(model, start, x, y, loss=loss, **inner)
