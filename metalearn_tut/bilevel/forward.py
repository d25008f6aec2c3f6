"""Calling a model as a function of its parameters, one task at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from inspect import signature

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel.inner import Params
from metalearn_tut.models.bound import with_tensors
from metalearn_tut.models.norms import NORMS

Forward = Callable[..., Tensor]
"""``forward(params, x, n_support=None) -> outputs``."""


def parameters_of(model: nn.Module) -> Params:
    """The model's parameters by name, the tensors themselves and not copies.

    Raises
    ------
    ValueError
        If a lazy layer has not seen an input yet.
    """
    own = dict(model.named_parameters())
    for name, p in own.items():
        if nn.parameter.is_lazy(p):
            raise ValueError(
                f"{type(model).__name__} has a lazy layer whose {name} has no shape yet: call the "
                "model once on an input"
            )
    return own


def trainable_of(model: nn.Module) -> Params:
    """Those of :func:`parameters_of` that are not frozen (``requires_grad``)."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def check_stepped(who: object, stepped: Collection[str]) -> None:
    """Refuse an inner loop in which nothing moves.

    Raises
    ------
    ValueError
        If ``stepped`` is empty, naming the type of ``who``.
    """
    if not stepped:
        raise ValueError(
            f"{type(who).__name__} has nothing to adapt: all parameters that its inner loop could "
            "step are frozen (requires_grad=False)"
        )


def task_dimensions(own: Params, params: Params) -> torch.Size:
    """The leading dimensions that ``params`` have beyond the model's ``own``: ``[T]`` or ``[]``."""
    known = next((n for n in own if n in params), None)
    return params[known].shape[: params[known].ndim - own[known].ndim] if known else torch.Size()


def completed(own: Params, params: Params) -> Params:
    """The model's ``own`` parameters, with ``params`` in place of those of the same names.

    The others, which are constants, get the leading task dimensions of these.
    """
    lead, full = task_dimensions(own, params), {}
    for name, p in own.items():
        full[name] = params[name] if name in params else p.detach().expand(*lead, *p.shape)
    return full


def stepped_groups(
    model: nn.Module, groups: Sequence[Sequence[str]] | None
) -> Sequence[Sequence[str]] | None:
    """The groups that an inner loop steps without the frozen parameters; None for all at once."""
    frozen = parameters_of(model).keys() - trainable_of(model).keys()
    if groups is None:
        return [list(trainable_of(model))] if frozen else None
    return [[name for name in group if name not in frozen] for group in groups]


def functional(model: nn.Module, *, training: bool | None = None) -> Forward:
    """``forward(params, x)``, a pure function of what it is given.

    Each call runs a private copy of the model (:func:`~metalearn_tut.models.with_tensors`):
    the model itself is not touched, neither its weights nor its running statistics, and any
    number of threads may call at once.

    Parameters
    ----------
    model : nn.Module
    training : bool, optional
        The mode of all layers, False for an answer that dropout has no part in; by default each
        layer's own.
    """

    def forward(params: Params, x: Tensor, **kwargs: int) -> Tensor:
        network = with_tensors(model, params, training=training)
        try:
            return network(x.clone(), **kwargs)  # a first layer may write into its input
        except RuntimeError as error:
            if x.is_floating_point() or "type" not in str(error):
                raise
            raise ValueError(
                f"inputs hold integers ({x.dtype}), which stay integers, as nn.Embedding reads "
                f"them, and {type(model).__name__} reads floats: pass x.float() (images as uint8 "
                "are scaled by themselves)"
            ) from error

    return forward


def one_tensor(outputs: object) -> Tensor:
    """What a network answers, if it is one tensor.

    Raises
    ------
    TypeError
        If it is a tuple, a dictionary, or something else that no loss is taken of.
    """
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"forward() must give one tensor of outputs [B, ...], got {type(outputs).__name__}: "
            "wrap the network in a module that gives the part that is learned from"
        )
    return outputs


def query_outputs(
    forward: Forward, params: Params, support_x: Tensor, query_x: Tensor, norm: str, axis: int = 0
) -> Tensor:
    """Outputs on the query set, normalized as the model's ``norm`` says.

    With ``norm="support"`` (inductive) the support set is sent along and alone provides the
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
        return one_tensor(forward(params, query_x))
    n = support_x.shape[axis]
    both = torch.cat([support_x, query_x], dim=axis)
    return forward(params, both, n_support=n).narrow(axis, n, query_x.shape[axis])


def norm_of(model: nn.Module | None) -> str:
    """The mode of a model with ``forward(x, n_support)``; any other is called as it is."""
    norm = getattr(model, "norm", "none")
    if not isinstance(norm, str) or norm not in NORMS:
        return "none"
    # an attribute of that name alone says nothing: other people's networks have one, too
    return norm if "n_support" in signature(model.forward).parameters else "none"
