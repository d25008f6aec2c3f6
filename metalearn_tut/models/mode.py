"""Evaluation mode for a while: the one place where a network's mode is changed and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every layer is in the mode that it was in.

    A layer that was in evaluation mode before, such as a frozen batch norm in a network that
    trains, is so afterwards, which ``network.train()`` would not leave it.

    Parameters
    ----------
    *networks : nn.Module
        Changed while the block runs: not for networks that another thread is using.

    Examples
    --------
    >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with evaluating(network):
    ...     print([layer.training for layer in network])
    [False, False]
    >>> [layer.training for layer in network]
    [True, False]
    """
    modes = [(layer, layer.training) for network in networks for layer in network.modules()]
    for layer, _ in modes:
        layer.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, training in modes:
            layer.training = training


def any_frozen(*parts: nn.Module | nn.Parameter) -> bool:
    """Whether any parameter of these is frozen: then none of them may be taken away.

    Examples
    --------
    >>> conv, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
    >>> any_frozen(conv, norm), any_frozen(conv, norm.requires_grad_(False))
    (False, True)
    """
    return any(not p.requires_grad for part in parts for p in _parameters(part))


def fixed_layers(network: nn.Module) -> list[nn.Module]:
    """Layers and groups of layers with parameters, all of them frozen.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.ReLU(), nn.Linear(2, 2))
    >>> fixed_layers(network) == [network[0]]
    True
    """
    own = ((m, list(m.parameters())) for m in network.modules())
    return [m for m, params in own if params and not any(p.requires_grad for p in params)]


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]
