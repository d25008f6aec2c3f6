"""What a round of pruning does: score all weights, remove some, let the others make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.checks import check_choice
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.capture import free_leaves
from metalearn_tut.saliency.gradient_scores import (
    KINDS,
    gradient_scores,
    magnitude_scores,
    random_scores,
)
from metalearn_tut.saliency.hessians import LayerHessian, layer_hessians
from metalearn_tut.saliency.obs import Scores, obs_scores, prune_layer
from metalearn_tut.tasks.task import TaskBatch

SCORES = ("anp", "lobs", "magnitude", "random", *KINDS)


def scores_of(
    learner: MAML,
    tasks: TaskBatch,
    score: str,
    *,
    layers: Sequence[str] | None = None,
    inner_steps: int | None = None,
    seed: int = 0,
    guard: float = 1e-5,
    update_hinv: bool = False,
    **hessian: Any,
) -> tuple[Scores, dict[str, LayerHessian]]:
    """The scores of one of ``SCORES``, and the Hessians that they come from, if any.

    Arguments are those of :func:`anp_prune`.
    """
    check_choice("score", score, SCORES)
    if score in ("anp", "lobs"):
        steps = 0 if score == "lobs" else inner_steps
        hessians = layer_hessians(learner, tasks, layers=layers, inner_steps=steps, **hessian)
        return obs_scores(learner, hessians, guard=guard, update_hinv=update_hinv), hessians
    if score == "magnitude":
        return magnitude_scores(learner, layers=layers), {}
    if score == "random":
        return random_scores(learner, seed=seed, layers=layers), {}
    return gradient_scores(learner, tasks, kind=score, layers=layers, inner_steps=inner_steps), {}


def remove(
    learner: MAML,
    masks: Mapping[str, Tensor],
    hessians: Mapping[str, LayerHessian],
    *,
    guard: float = 1e-5,
    update_hinv: bool = False,
) -> None:
    """Set the learner's masks; in layers with a Hessian the weights that stay compensate first.

    Without Hessians nothing compensates: what ``compensate=False`` of :func:`anp_prune` is.
    """
    params = parameters_of(learner.model)
    for layer, h in hessians.items():
        weight, *bias = free_leaves(learner, layer)
        names = [weight, bias[0] if bias else None]  # a frozen bias makes up for nothing
        old, keep = ([tensors.get(n) for n in names] for tensors in (params, masks))
        new = prune_layer(*old, *keep, h, guard=guard, update_hinv=update_hinv)
        with torch.no_grad():
            for tensor, value in zip(old, new, strict=True):
                if value is not None:
                    tensor.copy_(value)
    learner.set_masks({**learner.masks, **masks})
