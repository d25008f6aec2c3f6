"""Convolutions and poolings, ties and zeros in them, and how exact large ones are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.conformance.case import Case, numbers, regression, single_precision
from metalearn_tut.tasks.task import Task


def _small(*body: nn.Module, features: int, bias: bool = True, in_channels: int = 1) -> nn.Module:
    first = nn.Conv2d(in_channels, 2, 2, bias=bias)
    return nn.Sequential(first, *body, nn.Flatten(), nn.Linear(features, 1)).double()


def _pooled() -> nn.Module:
    return _small(nn.MaxPool2d(2), nn.Tanh(), features=8)


def _rectified(inplace: bool) -> nn.Module:
    return _small(nn.ReLU(inplace), nn.AvgPool2d(2), features=8, bias=False)


def _on_black() -> list[Task]:
    """A bright square on black, as characters are: most of an image is one value."""

    def blackened(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 3:] = 0
        x[..., 3:, :] = 0
        return x

    return [
        Task(blackened(t.support_x), t.support_y, blackened(t.query_x), t.query_y)
        for t in regression(1, 5, 5)
    ]


def _depthwise() -> nn.Module:
    parts = nn.Conv2d(2, 2, 2, groups=2, dilation=2), nn.Tanh()
    return _small(*parts, features=8)


def _padded() -> nn.Module:
    parts = nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.AvgPool2d(2)
    return _small(*parts, features=4)


def _upsampled() -> nn.Module:
    parts = nn.Tanh(), nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.AvgPool2d(3)
    return _small(*parts, features=8)


def _transposed() -> nn.Module:
    parts = nn.Tanh(), nn.ConvTranspose2d(2, 1, 2, stride=2), nn.AvgPool2d(4)
    return _small(*parts, features=4)


class _Large(nn.Module):
    """Convolution, batch norm and pooling of images of 84 by 84; smooth.

    Where a ReLU or a maximum switches, the meta-gradient jumps, and what float32 and float64
    compute next to it says nothing about rounding.
    """

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        body = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)
        self.body = nn.Sequential(*body, nn.Tanh(), nn.AvgPool2d(14))
        self.head = nn.Linear(144, 5)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.head(self.body(x).flatten(1))


class _Autocast(nn.Module):
    """Two layers, computed in bfloat16 as ``torch.autocast`` has it, or as they are."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 1)
        self.enabled = enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            return self.last(torch.tanh(self.first(x))).to(x.dtype)


def _small_case(name: str, build: Callable[[], nn.Module], told: str) -> Case:
    return Case(name, build, partial(regression, 1, 5, 5), told=told)


def _pictures() -> list[Task]:
    """One task of five ways and one shot with 75 queries."""
    labels = torch.arange(5)
    support, query = (numbers(rows, 3, 84, 84, seed=rows).float() for rows in (5, 75))
    return [Task(support, labels, query, labels.repeat(15))]


def _large(name: str, channels_last: bool) -> Case:
    build = partial(_Large, channels_last)
    return Case(name, build, _pictures, F.cross_entropy, tolerance=1e-3)


IMAGES = (
    _small_case("max pooling", _pooled, "[Pp]ool"),
    Case("max pooling, ties", _pooled, _on_black, told="[Pp]ool"),
    Case("ReLU of exact zeros", partial(_rectified, False), _on_black, told="[Rr]elu"),
    Case("ReLU in place", partial(_rectified, True), _on_black, told="[Ii]n-?place"),
    _small_case("depthwise, dilated convolution", _depthwise, "[Cc]onv"),
    _small_case("circular padding", _padded, "[Pp]ad"),
    _small_case("transposed convolution", _transposed, "[Tt]ranspose"),
    _small_case("bilinear upsampling", _upsampled, "[Uu]psampl|[Ii]nterpol"),
    _large("84×84, float32", channels_last=False),
    _large("84×84, float32, channels last", channels_last=True),
    Case(
        "bfloat16 autocast",
        partial(_Autocast, True),
        partial(single_precision, 4),
        exact=partial(_Autocast, False),
        told="autocast|bfloat16|BFloat16",
        tolerance=0.05,
    ),
)
