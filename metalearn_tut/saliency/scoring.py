"""What a round of pruning does: score all weights, remove some, let the others make up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.capture import free_leaves
from metalearn_tut.saliency.gradient_scores import (
    gradient_scores,
    magnitude_scores,
    random_scores,
)
from metalearn_tut.saliency.hessians import LayerHessian, layer_hessians
from metalearn_tut.saliency.obs import Scores, obs_scores, prune_layer
from metalearn_tut.saliency.plan import Criterion
from metalearn_tut.tasks.task import TaskBatch


def scores_of(
    learner: MAML, tasks: TaskBatch, criterion: Criterion | str = "anp"
) -> tuple[Scores, dict[str, LayerHessian]]:
    """The scores that a criterion, or a method's name, asks for; also their Hessians, if any.

    Of its tasks the criterion says nothing here: they are given.
    """
    how = Criterion(method=criterion) if isinstance(criterion, str) else criterion
    steps, layers = how.inner_steps, how.layers
    if how.has_hessians:
        steps = 0 if how.method == "lobs" else steps
        hessians = layer_hessians(learner, tasks, inner_steps=steps, **how.hessian)
        return obs_scores(learner, hessians, **how.surgery), hessians
    if how.method == "magnitude":
        return magnitude_scores(learner, layers=layers), {}
    if how.method == "random":
        return random_scores(learner, seed=how.seed, layers=layers), {}
    return gradient_scores(learner, tasks, kind=how.method, layers=layers, inner_steps=steps), {}


def remove(
    learner: MAML,
    masks: Mapping[str, Tensor],
    hessians: Mapping[str, LayerHessian],
    *,
    guard: float = 1e-5,
    update_hinv: bool = False,
) -> None:
    """Set the learner's masks; in layers with a Hessian the weights that stay compensate first.

    Without Hessians nothing compensates: what ``compensate=False`` is.
    """
    params = parameters_of(learner.model)
    for layer, h in hessians.items():
        weight, *bias = free_leaves(learner, layer)
        names = [weight, bias[0] if bias else None]  # a frozen bias makes up for nothing
        old = [params.get(name) for name in names]
        keep = [masks.get(name) for name in names]
        new = prune_layer(*old, *keep, h, guard=guard, update_hinv=update_hinv)
        with torch.no_grad():
            for tensor, value in zip(old, new, strict=True):
                if value is not None:
                    tensor.copy_(value)
    learner.set_masks({**learner.masks, **masks})
