"""Normalization layers, with and without weights, statistics of the batch and kept ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from metalearn_tut.conformance.case import Case, numbers, regression

TOLD = r"[Nn]orm\b|[Nn]orm\d|running|in-?place"


def after_convolution(norm: Callable[[], nn.Module]) -> nn.Module:
    """Images ``[B, 1, 4, 4]``: a convolution to two channels, the norm, and a linear output."""
    body = nn.Conv2d(1, 2, 2, stride=2), norm(), nn.Tanh(), nn.Flatten()
    return _uneven(nn.Sequential(*body, nn.Linear(8, 1)).double())


def after_linear(norm: Callable[[], nn.Module]) -> nn.Module:
    """Features ``[B, 3]``: a linear layer to four, the norm, and a linear output."""
    return _uneven(nn.Sequential(nn.Linear(3, 4), norm(), nn.Tanh(), nn.Linear(4, 1)).double())


def _uneven(model: nn.Module) -> nn.Module:
    """Weights of a norm as if trained, and its kept statistics, too."""
    norm = model[1]
    if norm.weight is not None:
        norm.weight.data += 0.3 * numbers(*norm.weight.shape, seed=1)
        norm.bias.data += 0.3 * numbers(*norm.bias.shape, seed=2)
    if getattr(norm, "running_mean", None) is not None:
        norm.running_mean += 0.3 * numbers(*norm.running_mean.shape, seed=3)
        norm.running_var += 0.3 * numbers(*norm.running_var.shape, seed=4).abs()
    return model


def _evaluated(norm: Callable[[], nn.Module]) -> nn.Module:
    return after_convolution(norm).eval()


def _images(name: str, norm: Callable[[], nn.Module], build: Callable = after_convolution) -> Case:
    return Case(name, partial(build, norm), partial(regression, 1, 4, 4), told=TOLD)


def _features(name: str, norm: Callable[[], nn.Module]) -> Case:
    return Case(name, partial(after_linear, norm), partial(regression, 3), told=TOLD)


NORMS = (
    _images(
        "batch norm, no statistics kept", partial(nn.BatchNorm2d, 2, track_running_stats=False)
    ),
    _images("batch norm, statistics kept, training", partial(nn.BatchNorm2d, 2)),
    _images("batch norm, statistics kept, evaluated", partial(nn.BatchNorm2d, 2), _evaluated),
    _images(
        "batch norm without weights",
        partial(nn.BatchNorm2d, 2, affine=False, track_running_stats=False),
    ),
    _features("batch norm of features", partial(nn.BatchNorm1d, 4, track_running_stats=False)),
    _features("layer norm", partial(nn.LayerNorm, 4)),
    _images("group norm", partial(nn.GroupNorm, 1, 2)),
    _images("instance norm with weights", partial(nn.InstanceNorm2d, 2, affine=True)),
)
