"""Any network with batch norms of PyTorch, made to normalize by the support set (inductive)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn_tut.models.bound import replaced
from metalearn_tut.models.norms.layers import TaskBatchNorm2d, normalize

_support_rows: ContextVar[int | None] = ContextVar("support_rows", default=None)
"""How many rows, the first, are the support set; of each thread its own."""


def support_norm(network: nn.Module) -> nn.Module:
    """A copy of any network whose batch norms take their statistics from the support set.

    Every batch norm of PyTorch becomes a :class:`~metalearn_tut.models.TaskBatchNorm2d` with
    its weights: called as ``copy(x, n_support)``, it normalizes by the first ``n_support`` rows,
    so that a query image is classified as if it had come alone (*inductive*). A learner trains
    and adapts it as it does a network of this package with ``norm="support"``. Set
    ``copy.norm = "batch"`` for the *transductive* protocol of the MAML paper: all query images of
    a task normalized together.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(x)``; it is left as it is. Its running statistics, which would mix
        tasks, are not used, whatever its mode.

    Returns
    -------
    nn.Module
        With ``forward(x, n_support=None)`` (and so ``embed``, if the network has one, as
        :class:`~metalearn_tut.learners.ProtoNet` needs it), and the copy as ``network``: what was
        the parameter ``head.weight`` is ``network.head.weight``.

    Raises
    ------
    ValueError
        If the network has no batch norm, or a lazy layer that has not seen an input yet.

    Examples
    --------
    >>> own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    >>> inductive, x = support_norm(own), torch.rand(9, 1, 8, 8)
    >>> together, alone = inductive(x, n_support=5), inductive(x[:6], n_support=5)
    >>> torch.allclose(together[5], alone[5], atol=1e-6)
    True
    """
    if any(map(nn.parameter.is_lazy, network.parameters())):
        raise ValueError(
            f"{type(network).__name__} has a lazy layer without a shape yet: call the network once "
            "on an input"
        )
    network = copy.deepcopy(network)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        raise ValueError(
            f"{type(network).__name__} has no batch norm of PyTorch that support_norm could "
            "replace: use it as it is (networks of this package take norm='support')"
        )
    like = next(network.parameters(), torch.empty(()))
    network = replaced(network, {norm: _SupportNorm(norm).to(like) for norm in norms})
    return (_WithEmbedding if hasattr(network, "embed") else _SupportNormalized)(network)


@contextmanager
def _first_rows(n_support: int | None) -> Iterator[None]:
    token = _support_rows.set(n_support)
    try:
        yield
    finally:
        _support_rows.reset(token)


class _SupportNorm(nn.Module):
    """In place of one batch norm; it learns from around it which rows are the support set."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.of_images = isinstance(norm, nn.BatchNorm2d)
        self.norm = TaskBatchNorm2d(norm.num_features, norm.eps)
        if norm.affine:
            self.norm.weight, self.norm.bias = norm.weight, norm.bias
        else:
            self.norm.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The shape of ``x [B, C, ...]`` stays."""
        images = x if self.of_images else x.reshape(*x.shape[:2], -1, 1)  # [B, C, P, 1]
        out = normalize(self.norm, images, _support_rows.get())
        return out if self.of_images else out.reshape(x.shape)


class _SupportNormalized(nn.Module):
    """A network with such norms, which is told how many rows are the support set."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.norm = network, "support"

    def forward(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Outputs ``[B, ...]``; batch statistics are those of the first ``n_support`` rows."""
        with _first_rows(n_support):
            return self.network(x)


class _WithEmbedding(_SupportNormalized):
    def embed(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Features ``[B, F]``, normalized likewise."""
        with _first_rows(n_support):
            return self.network.embed(x)
