"""Which weights go: how many, where, and that they stay away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.checks import check_choice
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.capture import prunable_parameters

Masks = dict[str, Tensor]
ALLOCATIONS = ("uniform", "global", "lamp")


def full_masks(learner: MAML, layers: Sequence[str] | None = None) -> Masks:
    """What the learner keeps now, by name of prunable parameter; all True if it has no masks."""
    params, own = parameters_of(learner.model), learner.masks
    names = prunable_parameters(learner, layers)
    ones = {n: torch.ones_like(params[n], dtype=torch.bool) for n in names}
    return {n: own[n].to(one.device) != 0 if n in own else one for n, one in ones.items()}


def by_layer(masks: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the parameters of each layer."""
    layers: dict[str, list[str]] = {}
    for name in masks:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return layers


def kept_fraction(masks: Mapping[str, Tensor]) -> float:
    """Share of the prunable weights (biases included) that is kept.

    Examples
    --------
    >>> kept_fraction({"weight": torch.tensor([True, False, False]), "bias": torch.tensor([True])})
    0.5
    """
    if not (size := sum(m.numel() for m in masks.values())):
        raise ValueError("masks must be of at least one weight, got none")
    return sum(int(m.count_nonzero()) for m in masks.values()) / size


def layer_fractions(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """The same for each layer by itself."""
    layers = by_layer(masks).items()
    return {layer: kept_fraction({n: masks[n] for n in names}) for layer, names in layers}


def select(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    step: float,
    *,
    allocation: str = "uniform",
    spare: Sequence[str] = (),
) -> Masks:
    """Take away the weights with the smallest scores.

    Parameters
    ----------
    scores : mapping of parameter name to Tensor
        Finite and >= 0, for every name in ``masks``.
    masks : mapping of parameter name to bool Tensor
        What is kept so far. What is gone stays gone.
    step : float
        Share of **all** prunable weights, those of the untouched network, to take now.
    allocation : {"uniform", "global", "lamp"}
        Who gives. ``"uniform"``, as in the authors' code: every layer the same share of its
        original size, ``int(step · size)`` weights and biases, ranked together. ``"global"``:
        one ranking of all layers by score over the sum of the layer's scores. ``"lamp"``: one
        ranking by score over the sum of those of the layer's scores that are not smaller (Lee
        et al. 2021, who have squared weights as scores).
    spare : sequence of layer names, optional
        Layers that give nothing; the others give more, so that ``step`` stays what it is.

    Returns
    -------
    dict of parameter name to bool Tensor
        New masks.

    Raises
    ------
    ValueError
        If a layer or the network would have to give more than it has left, or a layer (with
        ``"uniform"``) all of its weights, which no signal could pass. The two rankings never
        take a layer's best weight.

    Examples
    --------
    >>> scores = {"weight": torch.tensor([[3.0, 1.0, 2.0, 4.0]])}
    >>> select(scores, {"weight": torch.ones(1, 4, dtype=torch.bool)}, 0.5)
    {'weight': tensor([[ True, False, False,  True]])}
    """
    _check_scores(scores, masks)
    if not 0 <= step < 1:
        raise ValueError(f"step must be a share in [0, 1), got {step}")
    layers = _giving(masks, allocation, spare)
    flat = {layer: _flat(scores, names).double() for layer, names in layers.items()}
    kept = {layer: _flat(masks, names) for layer, names in layers.items()}
    weights = {layer: masks[names[0]].numel() for layer, names in layers.items()}
    total = sum(mask.numel() for mask in masks.values())
    if allocation == "uniform":
        kept = _alike(flat, kept, step * total)
    else:
        kept = _by_one_ranking(flat, kept, weights, _count(step, total), allocation)
    for layer, left in kept.items():
        if not left[: weights[layer]].any():
            raise ValueError(
                f"layer {layer!r} would be pruned fully, with no weight left; prune less, spare "
                "it, or use allocation='global' or 'lamp'"
            )
    chosen = dict(masks)
    for layer, names in layers.items():
        parts = kept[layer].split([masks[n].numel() for n in names])
        chosen |= {n: part.view(masks[n].shape) for n, part in zip(names, parts, strict=True)}
    return chosen


def _giving(
    masks: Mapping[str, Tensor], allocation: str, spare: Sequence[str]
) -> dict[str, list[str]]:
    """The layers that give, with their parameters, weight first."""
    check_choice("allocation", allocation, ALLOCATIONS)
    layers = by_layer(masks)
    for name in spare:
        check_choice("spare", name, layers)
    giving = {layer: names for layer, names in layers.items() if layer not in spare}
    if not giving:
        raise ValueError("spare names every layer: none is left to prune")
    return giving


def _check_scores(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    if not masks:
        raise ValueError("masks must be of at least one layer, got none")
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"masks[{name!r}] must be bool, got {mask.dtype}")
        if name not in scores or scores[name].shape != mask.shape:
            got = list(scores[name].shape) if name in scores else "none"
            raise ValueError(f"scores[{name!r}] must have shape {list(mask.shape)}, got {got}")
        if not (torch.isfinite(scores[name]) & (scores[name] >= 0)).all():
            raise ValueError(f"scores[{name!r}] must be finite and >= 0")


def _flat(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([tensors[n].flatten() for n in names])


def _count(share: float, size: int) -> int:
    """``int(share · size)``, with 0.29 · 100 counted as 29 although it is 28.999999999999996."""
    return int(share * size + 1e-9)


def _require(who: str, count: int, left: int) -> None:
    if count > left:
        raise ValueError(f"{who} is to give {count} weights and has {left} left to give")


def _alike(flat: Masks, kept: Masks, count: float) -> Masks:
    """What is left when the layers together give so many weights, each the same share."""
    share = count / sum(len(left) for left in kept.values())
    after = {}
    for layer, left in kept.items():
        own = _count(share, len(left))
        _require(f"layer {layer!r}", own, int(left.sum()))
        after[layer] = _without_smallest(flat[layer], left, own)
    return after


def _by_one_ranking(
    flat: Masks, kept: Masks, weights: Mapping[str, int], count: int, allocation: str
) -> Masks:
    """What is left without the smallest of all layers' scores, each scaled by its layer's."""
    scaled = [_scaled(flat[layer], kept[layer], weights[layer], allocation) for layer in kept]
    ranked, all_kept = torch.cat(scaled), torch.cat(list(kept.values()))
    _require("the network", count, int((all_kept & torch.isfinite(ranked)).sum()))
    sizes = [len(left) for left in kept.values()]
    parts = _without_smallest(ranked, all_kept, count).split(sizes)
    return dict(zip(kept, parts, strict=True))


def _without_smallest(scores: Tensor, kept: Tensor, count: int) -> Tensor:
    """``kept`` less its ``count`` smallest scores; of equal ones the first."""
    order = scores.masked_fill(~kept, math.inf).argsort(stable=True)
    remaining = kept.clone()
    remaining[order[:count]] = False
    return remaining


def _scaled(scores: Tensor, kept: Tensor, weights: int, allocation: str) -> Tensor:
    """A layer's scores as shares of its own total, infinite for the best of its weights."""
    scores = scores.masked_fill(~kept, 0.0)
    order = scores.argsort(stable=True)
    total = scores[order].flip(0).cumsum(0).flip(0)  # of those not smaller
    if allocation == "global":
        total = total[0].expand_as(total)
    scaled = torch.empty_like(scores)
    scaled[order] = scores[order] / total.clamp(min=torch.finfo(total.dtype).tiny)
    scaled[scores[:weights].masked_fill(~kept[:weights], -1.0).argmax()] = math.inf
    return scaled


def check_pruned(params: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Make sure that every weight whose mask is 0 is exactly 0.

    Raises
    ------
    RuntimeError
        Naming the parameter: something moved its pruned weights.
    """
    for name, mask in masks.items():
        moved = (params[name].detach() != 0) & (mask.to(params[name].device) == 0)
        if moved.any():
            raise RuntimeError(
                f"{int(moved.sum())} pruned weights of {name} are not 0: an optimizer with "
                "momentum from before the pruning moves them (see mask_optimizer), or training "
                "without masks"
            )


def mask_optimizer(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> None:
    """Let an optimizer forget what it remembers of pruned weights.

    Adam and SGD with momentum go on moving a weight whose gradient has become 0, for as long as
    the memory of earlier gradients lasts. :func:`metalearn_tut.training.meta_train` begins
    with a new optimizer and does not need this.

    Parameters
    ----------
    optimizer : Optimizer
        Its state is changed in place.
    params : mapping of name to Tensor
        The tensors that it trains.
    masks : mapping of name to 0/1 Tensor
        For some of them.

    Examples
    --------
    >>> w = torch.ones(2, requires_grad=True)
    >>> adam = torch.optim.Adam([w], lr=0.1)
    >>> w.sum().backward(); adam.step()
    >>> mask_optimizer(adam, {"w": w}, {"w": torch.tensor([1, 0])})
    >>> adam.state[w]["exp_avg"]
    tensor([0.1000, 0.0000])
    """
    for name, mask in masks.items():
        p = params[name]
        gone = mask.to(p.device) == 0
        for value in optimizer.state.get(p, {}).values():
            if isinstance(value, Tensor) and value.shape == p.shape:
                value.masked_fill_(gone, 0)
