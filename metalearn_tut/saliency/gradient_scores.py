"""Scores to compare with: size, chance, and gradients through the inner loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metalearn_tut import bilevel
from metalearn_tut.bilevel import Params, parameters_of
from metalearn_tut.bilevel.checks import prepare, ways_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.checks import check_choice, check_seed
from metalearn_tut.learners.maml import MAML
from metalearn_tut.models.bound import for_tasks
from metalearn_tut.saliency.capture import check_capture, prunable_parameters
from metalearn_tut.saliency.obs import Scores
from metalearn_tut.scoring import scalar_loss
from metalearn_tut.tasks.task import Task, TaskBatch

KINDS = ("snip", "meta_snip", "meta_taylor")


def magnitude_scores(learner: MAML, *, layers: Sequence[str] | None = None) -> Scores:
    """``s = w^2``: within a layer the ranking by ``|w|``, in the units of :func:`obs_scores`.

    It is the OBS score of a layer whose inputs are white (``H = I``).
    """
    names, params = prunable_parameters(learner, layers), parameters_of(learner.model)
    return {n: params[n].detach().double().square() for n in names}


def random_scores(learner: MAML, *, seed: int = 0, layers: Sequence[str] | None = None) -> Scores:
    """Uniform numbers in [0, 1), the same ones for the same seed on every device."""
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    names, params = prunable_parameters(learner, layers), parameters_of(learner.model)
    scores = {}
    for name in names:
        drawn = torch.rand(params[name].shape, generator=generator, dtype=torch.float64)
        scores[name] = drawn.to(params[name].device)
    return scores


def gradient_scores(
    learner: MAML,
    tasks: TaskBatch | Sequence[Task],
    *,
    kind: str = "meta_snip",
    layers: Sequence[str] | None = None,
    inner_steps: int | None = None,
    first_order: bool = False,
) -> Scores:
    """``|dF/dm|`` or ``|theta dF/dtheta|`` of the query loss after adaptation.

    ``F = (1/T) sum_i L_i^q(U_i^K)``, where the inner loop starts at ``m theta`` and its
    gradients are multiplied by m, as in a pruned network. For one step, with
    ``q = dL^q/dtheta'``, ``g = dL^s/dtheta`` and ``H_s`` the Hessian of ``L^s``,

    * ``"meta_snip"``: ``dF/dm_j = theta_j [(I - lr H_s) q]_j - lr g_j q_j``; the second term
      is what a removed weight can no longer learn;
    * ``"meta_taylor"``: ``theta_j dF/dtheta_j``, the first term alone;
    * ``"snip"``: no inner step, ``|w dL^q/dw|`` (Lee et al. 2019, on the tasks' query sets).

    All are exact for any number of steps, by differentiating through the inner loop.

    Parameters
    ----------
    learner : MAML
        Or a relative; whatever it trains by, F is as above, with its loss, rates and groups.
    tasks : TaskBatch or sequence of Task
        With query sets.
    kind : {"snip", "meta_snip", "meta_taylor"}
        See above.
    layers : sequence of names, optional
        See :func:`prunable_layers`.
    inner_steps : int, optional
        The learner's own by default.
    first_order : bool, default False
        Drop ``H_s``.

    Returns
    -------
    dict of parameter name to Tensor
        float64, of the parameter's shape; 0 for weights that are pruned.

    Raises
    ------
    ValueError
        Without tasks; if a score is not finite; if a layer's scores are all 0, so that they
        rank nothing: behind a head that is zero, ``"snip"`` sees nothing.

    Notes
    -----
    None of these is in the paper. Their formulas are derived, and tested against finite
    differences.
    """
    check_choice("kind", kind, KINDS)
    check_capture(learner)
    if not len(tasks):
        raise ValueError("gradient_scores needs at least one task, got none")
    names = prunable_parameters(learner, layers)
    steps = 0 if kind == "snip" else learner.inner_steps if inner_steps is None else inner_steps
    if steps and not first_order:
        bilevel.assert_second_order_safe(learner.model, "functional")
    sums: dict[str, Tensor] = {n: torch.zeros((), dtype=torch.float64) for n in names}
    for task in tasks:
        for name, row in _task_scores(learner, task, names, kind, steps, first_order).items():
            sums[name] = sums[name].to(row.device) + row.double()
    scores = {n: (s / len(tasks)).abs() for n, s in sums.items()}
    _check(scores, kind)
    return scores


def _task_scores(
    learner: MAML, task: Task, names: Sequence[str], kind: str, steps: int, first_order: bool
) -> Params:
    """The derivatives (with their signs) of one task's query loss."""
    inner_loss, network = learner.inner_loss, for_tasks(learner.model, training=False)
    metas = {n: p.detach() for n, p in learner.meta_parameters().items()}
    masks = {n: m.to(metas[n]) for n, m in learner.masks.items()}
    leaves = metas
    if kind == "meta_snip":
        leaves = masks = {n: masks.get(n, torch.ones_like(metas[n])) for n in masks.keys() | names}
    for name in names:
        leaves[name] = leaves[name].clone().requires_grad_()
    ways = None if task.support_y.is_floating_point() else task.ways
    params, lr = learner.start(metas, ways if learner.zero_head else None, steps)
    losses = (inner_loss, learner.loss)
    batch = prepare(TaskBatch.stack([task]), params, ways_of(learner.model, params), losses)
    inner = {**learner.inner_settings(steps), "masks": masks}
    with torch.enable_grad():
        value, _ = bilevel.query_loss(
            bilevel.functional(network),
            params,
            batch[0],
            loss=scalar_loss(learner.loss),
            inner_loss=scalar_loss(inner_loss, "inner_loss"),
            norm=norm_of(network),
            steps=steps,
            lr=lr,
            first_order=first_order,
            **inner,
        )
        wanted = [leaves[n] for n in names]
        grads = torch.autograd.grad(value, wanted, materialize_grads=True)
    found = dict(zip(names, grads, strict=True))
    if kind == "meta_snip":
        return {n: g * masks[n].detach() for n, g in found.items()}
    return {n: g * metas[n].detach() for n, g in found.items()}


def _check(scores: Scores, kind: str) -> None:
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise ValueError(f"the {kind} score of {name} is not finite (inner_lr too high?)")
        if name.endswith("weight") and not score.any():
            raise ValueError(
                f"every {kind} score of {name} is 0, which ranks nothing: no gradient reaches it "
                "(a head at zero lets none through before it has taken a step)"
            )
