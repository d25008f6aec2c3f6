"""Whole filters: ranked by the same scores, and removed so that the network is really smaller.

A mask saves bytes. Seconds are saved by a network with fewer channels, rebuilt from what is left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metalearn_tut.models import Conv4, ResNet12
from metalearn_tut.models.mode import any_frozen

Network = Conv4 | ResNet12


def _surroundings(model: Network) -> dict[str, tuple[str, str]]:
    """For each convolution that can lose filters: its norm, and the layer that reads them.

    In ResNet-12 these are the first two of each block. The last one's channels are added to the
    shortcut's and could only go together with them.
    """
    if type(model) is Conv4:
        readers = ("blocks.1.conv", "blocks.2.conv", "blocks.3.conv", "head")
        return {f"blocks.{i}.conv": (f"blocks.{i}.norm", r) for i, r in enumerate(readers)}
    if type(model) is ResNet12:
        return {
            f"blocks.{b}.convs.{i}": (f"blocks.{b}.norms.{i}", f"blocks.{b}.convs.{i + 1}")
            for b in range(len(model.blocks))
            for i in (0, 1)
        }
    raise TypeError(f"filters can be removed from Conv4 and ResNet12, got {type(model).__name__}")


def _is_frozen(model: Network, layer: str) -> bool:
    """Whether a filter of this layer would take frozen numbers with it, its own or others'."""
    norm, reader = _surroundings(model)[layer]
    own = (model.get_submodule(layer), model.get_submodule(norm))
    return any_frozen(*own, model.get_submodule(reader).weight)


def filter_scores(model: Network, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each filter is worth: the sum of the scores of its weights and its bias.

    Parameters
    ----------
    model : Conv4 or ResNet12
        The network that was scored.
    scores : mapping of parameter name to Tensor
        Of any kind, each of the parameter's shape; those of other layers are not looked at.

    Returns
    -------
    dict of layer name to Tensor [C_out]
        For every convolution that has scores and can lose filters: all of Conv4's, the first two
        of each block of a ResNet-12, if nothing is frozen of its own, its norm's and the weights
        that read it.

    Raises
    ------
    TypeError
        If the network is another one.
    ValueError
        If none of its convolutions has scores, or scores are NaN or not of the weight's shape.

    Examples
    --------
    >>> model = Conv4(1, ways=5, width=2)
    >>> weights = torch.arange(18.0).view(2, 1, 3, 3)
    >>> filter_scores(model, {"blocks.0.conv.weight": weights})
    {'blocks.0.conv': tensor([ 36., 117.])}
    """
    found = {}
    for layer in _surroundings(model):
        names = [n for n in (f"{layer}.weight", f"{layer}.bias") if n in scores]
        for name in names:
            shape = model.get_parameter(name).shape
            if scores[name].shape != shape:
                raise ValueError(
                    f"scores[{name!r}] must have shape {list(shape)}, "
                    f"got {list(scores[name].shape)}"
                )
            if bool(scores[name].isnan().any()):
                raise ValueError(f"scores[{name!r}] must not be NaN: nothing ranks by them")
        if names and not _is_frozen(model, layer):
            found[layer] = sum(scores[n].reshape(len(scores[n]), -1).sum(1) for n in names)
    if not found:
        may = [layer for layer in _surroundings(model) if not _is_frozen(model, layer)]
        raise ValueError(
            f"scores must be of {', '.join(may) or 'a layer that is not frozen'}, "
            f"got {list(scores)}"
        )
    return found


def best_filters(
    model: Network, scores: Mapping[str, Tensor], keep: float | Mapping[str, float]
) -> dict[str, Tensor]:
    """The filters with the highest scores of each layer.

    Parameters
    ----------
    model, scores
        As for :func:`filter_scores`.
    keep : float or mapping of layer name to float
        Share of each layer's filters to keep, in (0, 1]: ``int((1 - keep) · C_out)`` go, and
        at least one stays. With a mapping, layers that are not in it keep all. Where
        ``norm="group"`` whole groups go, as a group of fewer channels would have other
        statistics.

    Returns
    -------
    dict of layer name to bool Tensor [C_out]
        True where a filter is kept.

    Raises
    ------
    TypeError, ValueError
        As :func:`filter_scores`; also if a share is out of range, or names another layer.

    Examples
    --------
    >>> model = Conv4(1, ways=5, width=4)
    >>> scores = torch.tensor([3.0, 1.0, 2.0, 4.0]).view(4, 1, 1, 1).expand(4, 4, 3, 3)
    >>> best_filters(model, {"blocks.1.conv.weight": scores}, 0.5)
    {'blocks.1.conv': tensor([ True, False, False,  True])}
    """
    found = filter_scores(model, scores)
    shares = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(found, keep)
    if unknown := sorted(shares.keys() - found.keys()):
        raise ValueError(f"keep names {unknown[0]}, but scores are of {', '.join(found)}")
    kept = {}
    for layer, share in shares.items():
        if not 0 < share <= 1:
            raise ValueError(f"keep must be a share in (0, 1], got {share} for {layer}")
        size = _group_size(model, layer)
        groups = found[layer].view(-1, size).sum(1)
        # 0.8 of 10 filters are 8, although 10 (1 - 0.8) is 1.9999999999999996
        gone = min(int((1 - share) * len(groups) + 1e-9), len(groups) - 1)
        best = torch.ones_like(groups, dtype=torch.bool)
        best[groups.argsort(stable=True)[:gone]] = False
        kept[layer] = best.repeat_interleave(size)
    return kept


def _group_size(model: Network, layer: str) -> int:
    """How many filters can only go together."""
    norm = model.get_submodule(_surroundings(model)[layer][0])
    return norm.num_channels // norm.num_groups if isinstance(norm, nn.GroupNorm) else 1


def remove_filters(model: Network, kept: Mapping[str, Tensor]) -> Network:
    """A narrower network of what is left.

    With each filter go its bias, its channel of the norm and what the next layer makes of it.
    The result is the network whose filters, biases and norms' channels were set to 0, but
    without the work.

    Parameters
    ----------
    model : Conv4 or ResNet12
        Left as it is; nothing is shared with the result.
    kept : mapping of layer name to bool Tensor [C_out]
        As from :func:`best_filters`. Other layers keep all.

    Returns
    -------
    Conv4 or ResNet12
        With other ``width`` or ``inner``, from which it can be built again; of the same norm,
        dtype, device and modes. What is frozen stays so.

    Raises
    ------
    TypeError
        If the network is another one.
    ValueError
        If a layer cannot lose filters, is frozen (or its norm is, or the weights that read it),
        would lose all, or part of a group of its norm; if the network is a deployed one, whose
        statistics belong to its channels.

    Notes
    -----
    The paper prunes single weights; filters, and the sum as their score, are our addition. More
    is lost than with a mask of the same weights: a masked filter still puts out what its norm's
    bias adds, here that is gone. Meta-train again after removing many.

    Examples
    --------
    >>> model = Conv4(1, ways=5, width=32)
    >>> scores = {n: p.abs() for n, p in model.named_parameters()}
    >>> narrow = remove_filters(model, best_filters(model, scores, 0.5))
    >>> narrow.width, narrow(torch.rand(5, 1, 28, 28)).shape
    ((16, 16, 16, 16), torch.Size([5, 5]))
    """
    around = _surroundings(model)
    kept = {layer: torch.as_tensor(keep) for layer, keep in kept.items()}
    params = {n: p.detach() for n, p in model.named_parameters()}
    for layer, keep in kept.items():
        _check_kept(model, layer, keep)
        norm, reader = around[layer]
        keep = keep.to(params[f"{layer}.weight"].device)
        for name in (f"{part}.{leaf}" for part in (layer, norm) for leaf in ("weight", "bias")):
            if name in params:
                params[name] = params[name][keep]
        weight = params[f"{reader}.weight"]
        pixels = weight.shape[1] // len(keep)  # the head has an input for each pixel of a channel
        params[f"{reader}.weight"] = weight[:, keep.repeat_interleave(pixels)]
    network = _narrower(model, {layer: len(params[f"{layer}.weight"]) for layer in around})
    if network.state_dict().keys() != model.state_dict().keys():
        raise ValueError("the network is not as it was built: remove filters before deploying it")
    like = next(iter(params.values()))
    network.to(like).load_state_dict(params)
    for name, p in network.named_parameters():
        p.requires_grad_(model.get_parameter(name).requires_grad)
    for name, module in network.named_modules():
        module.training = model.get_submodule(name).training
    return network


def _check_kept(model: Network, layer: str, keep: Tensor) -> None:
    around = _surroundings(model)
    if layer not in around:
        raise ValueError(f"{layer} cannot lose filters; those that can are {', '.join(around)}")
    filters, size = len(model.get_submodule(layer).weight), _group_size(model, layer)
    if keep.shape != (filters,) or keep.dtype != torch.bool:
        raise ValueError(
            f"kept[{layer!r}] must be boolean of shape [{filters}], "
            f"got {keep.dtype} of shape {list(keep.shape)}"
        )
    if not keep.all() and _is_frozen(model, layer):
        raise ValueError(
            f"{layer} keeps all filters: with one would go frozen numbers (requires_grad=False) "
            f"of it, of {' or of '.join(around[layer])}"
        )
    if not keep.any():
        raise ValueError(f"kept[{layer!r}] must keep a filter at least")
    if not torch.equal(keep, keep[::size].repeat_interleave(size)):
        raise ValueError(
            f"kept[{layer!r}] must keep or drop whole groups of {size} filters: with the rest of "
            "a group its norm would change"
        )


def _narrower(model: Network, widths: Mapping[str, int]) -> Network:
    """An untrained network of the same class with these numbers of filters."""
    counts = list(widths.values())
    with torch.random.fork_rng([]):  # building must not change what is drawn afterwards
        if isinstance(model, ResNet12):
            pairs = list(zip(counts[::2], counts[1::2], strict=True))
            return ResNet12(model.ways, model.widths, model.in_channels, model.norm, pairs)
        sizes = {_group_size(model, layer) for layer in widths}
        if len(sizes) > 1:
            raise ValueError(f"norms must have groups of one size, got {sorted(sizes)}")
        group_size = sizes.pop() if model.norm == "group" else None
        shape = (model.in_channels, model.ways, counts)
        return Conv4(*shape, model.norm, model.image_size, group_size)
