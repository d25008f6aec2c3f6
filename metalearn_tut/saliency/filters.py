"""Whole filters, ranked by the same scores.

A mask saves bytes. Seconds are saved by a network with fewer channels, rebuilt from what is left:
:func:`~metalearn_tut.saliency.remove_filters`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metalearn_tut.models.filters import Filters, filters_of, remove_filters

__all__ = ["best_filters", "filter_scores", "remove_filters"]


def filter_scores(model: nn.Module, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each filter is worth: the sum of the scores of its weights and its bias.

    Parameters
    ----------
    model : nn.Module
        The network that was scored: see :func:`remove_filters` for which.
    scores : mapping of parameter name to Tensor
        Of any kind, each of the parameter's shape; those of other layers are not looked at.

    Returns
    -------
    dict of layer name to Tensor [C_out]
        For every convolution that has scores and can lose filters: all of Conv4's, the first two
        of each block of a ResNet-12 (the last one's channels are added to the shortcut's), if
        nothing is frozen of its own, its norm's and the weights that read it.

    Raises
    ------
    ValueError
        If ``forward`` cannot be followed, none of its convolutions has scores, or scores are NaN
        or not of the weight's shape.

    Notes
    -----
    The paper prunes single weights; filters, and the sum as their score, are our addition. More
    is lost than with a mask of the same weights: a masked filter still puts out what its norm's
    bias adds, without the filter that is gone. Meta-train again after removing many.

    Examples
    --------
    >>> from metalearn_tut.models import Conv4
    >>> model = Conv4(1, ways=5, width=2)
    >>> weights = torch.arange(18.0).view(2, 1, 3, 3)
    >>> filter_scores(model, {"blocks.0.conv.weight": weights})
    {'blocks.0.conv': tensor([ 36., 117.])}
    """
    return _scores_of(model, scores, _removable(model))


def best_filters(
    model: nn.Module, scores: Mapping[str, Tensor], keep: float | Mapping[str, float]
) -> dict[str, Tensor]:
    """The filters with the highest scores of each layer.

    Parameters
    ----------
    model, scores
        As for :func:`filter_scores`.
    keep : float or mapping of layer name to float
        Share of each layer's filters to keep, in (0, 1]: ``int((1 - keep) · C_out)`` go, and
        at least one stays. With a mapping, layers that are not in it keep all. Behind a group
        norm whole groups go, as a group of fewer channels would have other statistics.

    Returns
    -------
    dict of layer name to bool Tensor [C_out]
        True where a filter is kept.

    Raises
    ------
    ValueError
        As :func:`filter_scores`; also if a share is out of range, or names another layer.

    Examples
    --------
    >>> from metalearn_tut.models import Conv4
    >>> model = Conv4(1, ways=5, width=4)
    >>> scores = torch.tensor([3.0, 1.0, 2.0, 4.0]).view(4, 1, 1, 1).expand(4, 4, 3, 3)
    >>> best_filters(model, {"blocks.1.conv.weight": scores}, 0.5)
    {'blocks.1.conv': tensor([ True, False, False,  True])}
    """
    removable = _removable(model)
    found = _scores_of(model, scores, removable)
    shares = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(found, keep)
    if unknown := sorted(shares.keys() - found.keys()):
        raise ValueError(f"keep names {unknown[0]}, but scores are of {', '.join(found)}")
    kept = {}
    for layer, share in shares.items():
        if not 0 < share <= 1:
            raise ValueError(f"keep must be a share in (0, 1], got {share} for {layer}")
        size = removable[layer].group
        groups = found[layer].view(-1, size).sum(1)
        # 0.8 of 10 filters are 8, although 10 (1 - 0.8) is 1.9999999999999996
        gone = min(int((1 - share) * len(groups) + 1e-9), len(groups) - 1)
        best = torch.ones_like(groups, dtype=torch.bool)
        best[groups.argsort(stable=True)[:gone]] = False
        kept[layer] = best.repeat_interleave(size)
    return kept


def _removable(model: nn.Module) -> dict[str, Filters]:
    """The convolutions that can lose filters."""
    found = filters_of(model).items()
    return {n: filters for n, filters in found if not (filters.fixed or filters.frozen(model, n))}


def _scores_of(
    model: nn.Module, scores: Mapping[str, Tensor], removable: Mapping[str, Filters]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer in removable:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name not in scores:
                continue
            _check_scores(name, scores[name], model.get_parameter(name).shape)
            own = scores[name].flatten(1).sum(1) if scores[name].ndim > 1 else scores[name]
            found[layer] = found[layer] + own if layer in found else own
    if not found:
        raise ValueError(
            f"scores must be of {', '.join(removable) or 'a layer that is not frozen'}, "
            f"got {list(scores)}"
        )
    return found


def _check_scores(name: str, scores: Tensor, shape: torch.Size) -> None:
    if scores.shape != shape:
        raise ValueError(
            f"scores[{name!r}] must have shape {list(shape)}, got {list(scores.shape)}"
        )
    if bool(scores.isnan().any()):
        raise ValueError(f"scores[{name!r}] must not be NaN: nothing ranks by them")
