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
