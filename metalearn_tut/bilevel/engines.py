"""Meta-gradients: one definition, several ways to compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from metalearn_tut.bilevel.forward import (
    Forward,
    functional,
    norm_of,
    parameters_of,
    query_outputs,
)
from metalearn_tut.bilevel.implicit import add, conjugate_gradient, hessian_product, neumann
from metalearn_tut.bilevel.inner import (
    Params,
    Rate,
    check_inner,
    inner_loop,
    inner_path,
    rate_at,
)
from metalearn_tut.bilevel.vectorised import vectorised
from metalearn_tut.tasks.task import Task, TaskBatch, as_float

ENGINES = ("functional", "higher", "vectorised", "implicit")
SOLVERS = ("cg", "neumann")

Objective = Callable[[Params, Any], tuple[Tensor, Tensor]]
"""(meta-parameters, task) -> (query loss, query outputs)."""
TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [B, ...], targets [B, ...]) -> mean loss, a scalar."""


class TaskGradients(NamedTuple):
    """What one pass over a batch of T tasks gives.

    ``losses [T]`` query losses, ``outputs [T, N·Q, ...]`` query outputs without graph, and
    ``gradients``: for each meta-parameter a tensor ``[T, ...]``, one gradient per task.
    """

    losses: Tensor
    outputs: Tensor
    gradients: Params


def query_loss(
    forward: Forward,
    params: Params,
    task: Task | TaskBatch,
    *,
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    norm: str = "none",
    step_weights: Sequence[float] | None = None,
    path: Callable[..., Iterator[Params]] = inner_path,
    axis: int = 0,
    **inner: Any,
) -> tuple[Tensor, Tensor]:
    """Adapt to the support set, then judge on the query set: the inside of bi-level learning.

    ``L_i(theta) = l(f_{theta_i'}(query_x), query_y)`` with ``theta_i'`` the end of the inner
    loop (Finn et al. 2017, equation 1), or the sum over steps of ``step_weights[k]`` times
    the query loss after step k+1 (the multi-step loss of Antoniou et al. 2019).

    Returns the query loss (``[T]`` for a stacked batch) and the query outputs after the last
    step. ``inner`` holds the arguments of :func:`inner_path`.
    """
    inner_loss = loss if inner_loss is None else inner_loss

    def support_loss(p: Params) -> Tensor:
        return inner_loss(forward(p, task.support_x), task.support_y).sum()

    def on_query(p: Params) -> tuple[Tensor, Tensor]:
        outputs = query_outputs(forward, p, task.support_x, task.query_x, norm, axis)
        return loss(outputs, task.query_y), outputs

    if step_weights is None:
        return on_query(inner_loop(support_loss, params, path=path, **inner))
    total: Tensor | float = 0.0
    for weight, adapted in zip(step_weights, path(support_loss, params, **inner), strict=True):
        value, outputs = on_query(adapted)
        total = total + weight * value
    return total, outputs


def looped(objective: Objective, metas: Params, batch: TaskBatch) -> TaskGradients:
    """One task after another; each task's graph is freed before the next is built."""
    rows = []
    for task in batch:
        loss, outputs = objective(metas, task)
        grads = torch.autograd.grad(loss, list(metas.values()), materialize_grads=True)
        rows.append((loss.detach(), outputs.detach(), grads))
    losses, outputs, grads = zip(*rows, strict=True)
    stacked = (torch.stack(g) for g in zip(*grads, strict=True))
    return TaskGradients(
        torch.stack(losses), torch.stack(outputs), dict(zip(metas, stacked, strict=True))
    )


def stacked(objective: Objective, metas: Params, batch: TaskBatch) -> TaskGradients:
    """All tasks in one graph: every task gets its own copy of the meta-parameters."""
    copies = {
        n: p.detach().expand(len(batch), *p.shape).clone().requires_grad_()
        for n, p in metas.items()
    }
    losses, outputs = objective(copies, batch)
    grads = torch.autograd.grad(losses.sum(), list(copies.values()), materialize_grads=True)
    return TaskGradients(losses.detach(), outputs.detach(), dict(zip(metas, grads, strict=True)))


def higher_path(
    diffopt: Any,
    loss: Callable[[Params], Tensor],
    params: Mapping[str, Tensor],
    *,
    steps: int,
    lr: Rate,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    first_order: bool = False,
    pull: float = 0.0,
    recompute: bool = False,
) -> Iterator[Params]:
    """:func:`inner_path` with each update made by a ``higher`` differentiable optimiser."""
    if recompute:
        raise ValueError("recompute=True needs engine='functional', got engine='higher'")
    masks = masks or {}
    start = {n: p * masks[n] if n in masks else p for n, p in params.items()}
    current = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in start.items()}

    def shaped(group: Sequence[str], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        grads = [g if n in group else None for n, g in zip(current, grads, strict=True)]
        if first_order:
            grads = [None if g is None else g.detach() for g in grads]
        return [
            g * masks[n] if g is not None and n in masks else g
            for n, g in zip(current, grads, strict=True)
        ]

    for k in range(steps):
        for group in [list(params)] if groups is None else groups:
            value = loss(current)
            if pull:
                value = value + pull / 2 * sum(((current[n] - start[n]) ** 2).sum() for n in group)
            updated = diffopt.step(
                value,
                params=list(current.values()),
                override={"lr": [rate_at(lr, k, n) for n in current]},
                grad_callback=partial(shaped, group),
            )
            current = dict(zip(current, updated, strict=True))
        yield current


def with_higher(model: nn.Module) -> tuple[Forward, Callable[..., Iterator[Params]]]:
    """A stateless copy of ``model`` made by ``higher``, and the inner path that steps it.

    One optimiser group per parameter tensor, so that each may have its own rate.
    """
    import higher

    fmodel = higher.monkeypatch(model, copy_initial_weights=False)
    optimiser = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=1.0)
    diffopt = higher.get_diff_optim(optimiser, model.parameters(), fmodel=fmodel)

    def forward(params: Params, x: Tensor, **kwargs: int) -> Tensor:
        return fmodel(x, params=list(params.values()), **kwargs)

    return forward, partial(higher_path, diffopt)


def objective_for(
    model: nn.Module,
    engine: str,
    tasks: int,
    start: Callable[[Params], tuple[Params, Rate]],
    *,
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    **settings: Any,
) -> tuple[Objective, Callable[[Objective, Params, TaskBatch], TaskGradients]]:
    """The unrolled objective of an engine, and how to run it over a batch.

    ``start`` turns meta-parameters into the parameters where the inner loop begins and its
    rates. For ``"vectorised"`` both carry a leading dimension T.
    """
    settings["norm"] = norm_of(model)
    if engine == "vectorised":
        batched = vectorised(model, tasks)
        per_task = {"loss": vmap(loss), "inner_loss": vmap(inner_loss or loss), "axis": 1}

        def all_tasks(metas: Params, batch: TaskBatch) -> tuple[Tensor, Tensor]:
            params, lr = start(metas)
            return query_loss(batched, params, batch, lr=lr, **per_task, **settings)

        return all_tasks, stacked

    call = functional(model)

    def one_task(metas: Params, task: Task) -> tuple[Tensor, Tensor]:
        params, lr = start(metas)
        forward, path = with_higher(model) if engine == "higher" else (call, inner_path)
        return query_loss(
            forward, params, task, lr=lr, loss=loss, inner_loss=inner_loss, path=path, **settings
        )

    return one_task, looped


def implicit_gradients(
    model: nn.Module,
    batch: TaskBatch,
    start: Callable[[Params], tuple[Params, Rate]],
    metas: Params,
    *,
    steps: int,
    pull: float,
    loss: TaskLoss = F.cross_entropy,
    inner_loss: TaskLoss | None = None,
    solver: str = "cg",
    solver_steps: int = 20,
    **inner: Any,
) -> TaskGradients:
    """Meta-gradients at the solution of the pulled inner problem (iMAML).

    With ``phi* = argmin L_s(phi) + pull/2 |phi - theta|^2``, the implicit function theorem
    gives ``d phi*/d theta = (I + H/pull)^-1``, H the Hessian of the support loss at phi*
    (Rajeswaran et al. 2019, lemma 1), so one linear solve replaces the whole backward pass.
    It is right only where the inner loop has converged. Learned rates get no gradient.
    """
    if pull <= 0:
        raise ValueError(f"engine='implicit' needs pull > 0 (iMAML's lambda), got {pull}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    for name in ("groups", "step_weights", "masks"):
        if inner.pop(name, None) is not None:
            raise ValueError(f"engine='implicit' does not take {name}; use engine='functional'")
    inner.pop("first_order", None)
    inner.pop("recompute", None)
    forward = functional(model)
    inner_loss = loss if inner_loss is None else inner_loss
    norm = norm_of(model)
    params, lr = start(metas)
    if solver == "neumann" and not isinstance(lr, (int, float)):
        raise ValueError("solver='neumann' needs one number as inner_lr; use solver='cg'")

    def solve(task: Task) -> tuple[Tensor, Tensor, list[Tensor]]:
        def support_loss(p: Params) -> Tensor:
            return inner_loss(forward(p, task.support_x), task.support_y)

        with torch.no_grad():
            phi = inner_loop(support_loss, params, steps=steps, lr=lr, pull=pull, **inner)
        phi = {n: p.detach().requires_grad_() for n, p in phi.items()}
        outputs = query_outputs(forward, phi, task.support_x, task.query_x, norm)
        value = loss(outputs, task.query_y)
        grads = torch.autograd.grad(value, list(phi.values()), materialize_grads=True)
        v = dict(zip(phi, grads, strict=True))
        hessian = hessian_product(support_loss, phi)

        def matrix(u: Params) -> Params:
            return add(hessian(u), u, pull)  # H + pull·I

        if solver == "cg":
            u = conjugate_gradient(matrix, v, steps=solver_steps)
        else:
            u = neumann(matrix, v, steps=solver_steps, rate=lr)
        wanted = [pull * u[n].detach() if n in u else torch.zeros_like(m) for n, m in metas.items()]
        return value.detach(), outputs.detach(), wanted

    losses, outputs, grads = zip(*(solve(task) for task in batch), strict=True)
    per_meta = (torch.stack(g) for g in zip(*grads, strict=True))
    return TaskGradients(
        torch.stack(losses), torch.stack(outputs), dict(zip(metas, per_meta, strict=True))
    )


def task_gradients(
    model: nn.Module,
    batch: TaskBatch,
    metas: Params,
    start: Callable[[Params], tuple[Params, Rate]],
    *,
    engine: str = "functional",
    **settings: Any,
) -> TaskGradients:
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
    engine : str
        One of ``ENGINES``.
    **settings
        Arguments of :func:`query_loss` and :func:`inner_path`; for ``"implicit"`` those of
        :func:`implicit_gradients`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {engine!r}")
    params, lr = start(metas)
    check_inner(
        params,
        settings["steps"],
        lr,
        settings.get("masks"),
        settings.get("groups"),
        settings.get("pull", 0.0),
    )
    batch = prepare(batch, next(iter(params.values())), model)
    with torch.enable_grad():
        if engine == "implicit":
            return implicit_gradients(model, batch, start, metas, **settings)
        objective, run = objective_for(model, engine, len(batch), start, **settings)
        return run(objective, metas, batch)


def prepare(batch: TaskBatch, like: Tensor, model: nn.Module) -> TaskBatch:
    """Floats of the parameters' dtype and device, and labels that the model can output."""
    for part in ("support", "query"):
        check_labels(getattr(batch, f"{part}_y"), model, f"{part}_y")
    return TaskBatch(
        check_finite(as_float(batch.support_x.to(like.device), like.dtype), "support_x"),
        _targets(batch.support_y, like),
        check_finite(as_float(batch.query_x.to(like.device), like.dtype), "query_x"),
        _targets(batch.query_y, like),
    )


def _targets(y: Tensor, like: Tensor) -> Tensor:
    return y.to(like.device, like.dtype) if y.is_floating_point() else y.to(like.device)


def check_finite(x: Tensor, name: str) -> Tensor:
    """Refuse inputs with NaN or infinite numbers."""
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite, but it has NaN or infinite numbers")
    return x


def check_labels(y: Tensor, model: nn.Module, name: str) -> None:
    """Refuse integer labels that the model has no output for."""
    if y.is_floating_point():
        return
    if y.dtype != torch.int64:
        raise ValueError(f"{name} must be int64 labels or floating-point targets, got {y.dtype}")
    ways = getattr(model, "ways", None)
    low, high = int(y.min()), int(y.max())
    if low < 0 or (ways is not None and high >= ways):
        allowed = "labels >= 0" if ways is None else f"labels in 0..{ways - 1}"
        raise ValueError(f"{name} must hold {allowed}, got {low if low < 0 else high}")


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
        Its parameters are theta; nothing in it is changed.
    batch : TaskBatch, Task or sequence of Task
        Images ``uint8`` or floating; labels ``int64`` in 0..ways-1.
    inner_lr : float, Tensor, mapping or sequence
        See :func:`inner_path`.
    inner_steps : int
        Number of inner steps, >= 0; 0 gives the ordinary gradient of the query loss.
    engine : {"functional", "higher", "vectorised", "implicit"}
        How to compute it. The first three agree to rounding; ``"implicit"`` needs
        ``pull`` > 0 and a converged inner loop.
    first_order : bool, default False
        Drop the second-order term (FOMAML).
    **settings
        ``loss``, ``inner_loss``, ``step_weights`` of :func:`query_loss`; ``masks``,
        ``groups``, ``pull``, ``recompute`` of :func:`inner_path`; ``solver``,
        ``solver_steps`` of :func:`implicit_gradients`.

    Returns
    -------
    dict of name to Tensor
        One gradient per parameter of the model, of its shape.

    Raises
    ------
    ValueError
        For an unknown engine, ``inner_steps < 0``, labels outside 0..ways-1, inputs that are
        not finite, or masks and groups that name no parameter.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> batch = tasks.from_arrays(x, y).sampler(ways=3, shots=1, queries=2).batch(0, 2)
    >>> grads = meta_gradient(nn.Linear(4, 3), batch, inner_lr=0.1, inner_steps=1)
    >>> {name: tuple(g.shape) for name, g in grads.items()}
    {'weight': (3, 4), 'bias': (3,)}
    """
    result = task_gradients(
        model,
        _as_batch(batch),
        parameters_of(model),
        lambda params: (params, inner_lr),
        engine=engine,
        steps=inner_steps,
        first_order=first_order,
        **settings,
    )
    return {n: g.mean(0) for n, g in result.gradients.items()}


def _as_batch(batch: TaskBatch | Task | Sequence[Task]) -> TaskBatch:
    if isinstance(batch, TaskBatch):
        return batch
    return TaskBatch.stack([batch] if isinstance(batch, Task) else batch)


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
        ``masks``, ``groups``, ``first_order``, ``pull``, ``recompute``.

    Returns
    -------
    dict of name to Tensor
        Adapted parameters; differentiable with respect to the start unless called inside
        ``torch.no_grad()``, where memory does not grow with the number of steps.
    """
    start = parameters_of(model) if params is None else params
    check_inner(start, inner_steps, inner_lr, inner.get("masks"), inner.get("groups"))
    if params is None:
        check_labels(support_y, model, "support_y")
    like = next(iter(start.values()))
    x = check_finite(as_float(support_x.to(like.device), like.dtype), "support_x")
    y = _targets(support_y, like)
    forward = functional(model)
    return inner_loop(
        lambda p: loss(forward(p, x), y), start, steps=inner_steps, lr=inner_lr, **inner
    )
