"""A learner's state is one thing: all tensors that decide its answers, saved and loaded whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from metalearn_tut.files.content import architecture, described
from metalearn_tut.files.tensor_file import copy_tensors
from metalearn_tut.learners.learner import Learner

META, FIXED, BUFFER, MASK = "meta.", "fixed.", "buffer.", "mask."


def state_of(learner: Learner) -> dict[str, Tensor]:
    """The tensors themselves, by name.

    ``meta.<name>`` is what is trained, ``fixed.<name>`` a frozen parameter (or what else the
    learner names by ``fixed_parameters()``), ``buffer.<name>`` a buffer (running statistics),
    ``mask.<name>`` the mask of a pruned parameter.
    """
    masks = {MASK + n: mask for n, mask in getattr(learner, "masks", {}).items()}
    return {**_unmasked(learner), **masks}


def _unmasked(learner: Learner) -> dict[str, Tensor]:
    state = {META + n: p for n, p in learner.meta_parameters().items()}
    if callable(getattr(learner, "fixed_parameters", None)):
        state |= {FIXED + n: p for n, p in learner.fixed_parameters().items()}
    for first, network in networks_of(learner).items():
        frozen = {n: p for n, p in network.named_parameters() if not p.requires_grad}
        state |= {f"{FIXED}{first}{n}": p for n, p in frozen.items()}
        state |= {f"{BUFFER}{first}{n}": b for n, b in network.named_buffers()}
    return state


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """The same without masks, by the names that the networks' own ``state_dict()`` has."""
    kinds = (META, FIXED, BUFFER)
    named = _unmasked(learner).items()
    return {n.removeprefix(next(k for k in kinds if n.startswith(k))): t for n, t in named}


def networks_of(learner: Learner) -> dict[str, nn.Module]:
    """The networks behind a learner, by what their tensors' names begin with."""
    if callable(getattr(learner, "networks", None)):
        return learner.networks()
    model = getattr(learner, "model", None)
    return {"": model} if isinstance(model, nn.Module) else {}


def load_state(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], learner: Learner
) -> None:
    """Make the learner what it was when these tensors of a file were its state, in place.

    Raises
    ------
    ValueError
        If names or shapes differ, naming the first that does; the learner is as it was.
    """
    masks = {n.removeprefix(MASK): t for n, t in tensors.items() if n.startswith(MASK)}
    if masks and not hasattr(learner, "set_masks"):
        raise ValueError(
            f"{path} holds a pruned learner, and {type(learner).__name__} has no masks"
        )
    kinds = (META, FIXED, BUFFER)
    saved = {n: t for n, t in tensors.items() if n.startswith(kinds)}
    copy_tensors(path, _by_name(saved), _by_name(_unmasked(learner)))
    if hasattr(learner, "set_masks"):
        learner.set_masks(masks or None)


def _by_name(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by their own names: whether one is frozen does not matter to what it is."""
    return {n.removeprefix(META).removeprefix(FIXED): t for n, t in state.items()}


def settings_of(learner: Learner) -> dict[str, Any]:
    """What the learner says of itself by ``settings()``; of one that says nothing, its kind."""
    if callable(getattr(learner, "settings", None)):
        return described(learner.settings())
    networks = {name: architecture(network) for name, network in networks_of(learner).items()}
    return {"method": type(learner).__qualname__, "networks": networks}
