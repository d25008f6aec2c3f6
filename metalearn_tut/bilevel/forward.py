"""Calling a model as a function of its parameters, one task at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metalearn_tut.bilevel.inner import Params
from metalearn_tut.models.norms import NORMS

Forward = Callable[..., Tensor]
"""``forward(params, x, n_support=None) -> outputs``."""


def parameters_of(model: nn.Module) -> Params:
    """The model's parameters by name, the tensors themselves and not copies."""
    return dict(model.named_parameters())


def functional(model: nn.Module) -> Forward:
    """``forward(params, x)`` through ``torch.func.functional_call``.

    Buffers are passed as copies, so running statistics never change behind a learner's back.
    """

    def forward(params: Params, x: Tensor, **kwargs: int) -> Tensor:
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        return functional_call(model, {**params, **buffers}, (x,), kwargs)

    return forward


def query_outputs(
    forward: Forward, params: Params, support_x: Tensor, query_x: Tensor, norm: str, axis: int = 0
) -> Tensor:
    """Outputs on the query set, normalized as the model's ``norm`` says.

    With ``norm="support"`` the support set is sent along and alone provides the
    batch statistics, so each query image is classified as if it had come alone.
    With ``"batch"`` the query batch provides its own statistics (transductive).

    Parameters
    ----------
    forward : callable
        ``forward(params, x, n_support=...)``.
    support_x, query_x : Tensor
        The task's inputs, examples along dimension ``axis``.
    """
    if norm != "support":
        return forward(params, query_x)
    n = support_x.shape[axis]
    both = torch.cat([support_x, query_x], dim=axis)
    return forward(params, both, n_support=n).narrow(axis, n, query_x.shape[axis])


def norm_of(model: nn.Module | None) -> str:
    """The model's normalization mode; a model that names none is called as it is."""
    norm = getattr(model, "norm", "none")
    return norm if isinstance(norm, str) and norm in NORMS else "none"
