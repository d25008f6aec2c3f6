"""What a ``forward`` may do: hooks, in-place steps, branches, randomness, buffers, layouts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metalearn_tut.conformance.case import Case, regression
from metalearn_tut.conformance.cases.weights import network
from metalearn_tut.tasks.task import Task


def _hooked() -> nn.Module:
    model = network()
    model[2].register_forward_hook(lambda layer, given, outputs: 2 * outputs)
    return model


def _hooked_before() -> nn.Module:
    model = network()
    model[2].register_forward_pre_hook(lambda layer, given: (3 * given[0],))
    return model


class _Between(nn.Module):
    """Two layers, and between them whatever a subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(self.before(x))))

    def before(self, x: Tensor) -> Tensor:
        """What is done to the inputs."""
        return x

    def between(self, h: Tensor) -> Tensor:
        """What is done to the hidden units."""
        return torch.tanh(h)


class _InPlace(_Between):
    def between(self, h: Tensor) -> Tensor:
        h = torch.tanh(h) + 0
        h += 1
        h[:, 0] *= 2
        return h.mul_(0.5)


class _Buffers(_Between):
    """A fixed scale, and a count of calls that each forward raises."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.5, 1.0, 2.0, 3.0]).double())
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def between(self, h: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(h * self.scale)


class _Constants(_Between):
    """A fixed tensor as a plain attribute, in no state."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(h * self.scale)


class _Branch(_Between):
    """The larger half of the inputs goes another way: a decision on values, by ``if``."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 4).double()

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(self.other(h) if h.mean() > 0 else h)


class _QueryOnly(_Between):
    """A layer that only a set with one row more uses, as a query set has here."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 4).double()

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(self.other(torch.tanh(h)) if len(h) == 5 else h)


class _Standardized(_Between):
    """Inputs standardized inside ``torch.no_grad()``, since they need no gradient."""

    def before(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return (x - x.mean(0)) / x.std(0)


class _Distances(_Between):
    def between(self, h: Tensor) -> Tensor:
        return torch.cdist(h, h.new_ones(4, 4).tril())


class _Recomputed(_Between):
    def between(self, h: Tensor) -> Tensor:
        return checkpoint(lambda h: torch.tanh(h).square(), h, use_reentrant=False)


class _Cube(torch.autograd.Function):
    """x³ with its derivative in plain operations, so that it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class _OwnFunction(_Between):
    def between(self, h: Tensor) -> Tensor:
        return _Cube.apply(torch.tanh(h))


class _Dropout(_Between):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def between(self, h: Tensor) -> Tensor:
        return self.dropout(torch.tanh(h))


def strided() -> list[Task]:
    """Inputs that are every other column of wider ones: views that are not contiguous."""
    return [
        Task(t.support_x[:, ::2], t.support_y, t.query_x[:, ::2], t.query_y) for t in regression(6)
    ]


def longer_query() -> list[Task]:
    """Four support and five query examples."""
    return [
        Task(t.support_x[:4], t.support_y[:4], t.query_x, t.query_y) for t in regression(3, rows=5)
    ]


def _case(name: str, build: Callable[[], nn.Module], told: str) -> Case:
    return Case(name, build, partial(regression, 3), told=told)


FORWARDS = (
    _case("forward hook", _hooked, "hook"),
    _case("forward pre-hook", _hooked_before, "hook"),
    _case("in-place arithmetic", _InPlace, "[Ii]n-?place|setitem|iadd"),
    _case("buffers, one of them counting", _Buffers, "buffer|calls|scale|get_attr|in-?place"),
    _case("a tensor as plain attribute", _Constants, "scale|get_attr"),
    _case("a branch on values", _Branch, "control flow"),
    Case("a layer that only the query uses", _QueryOnly, longer_query, told="unused|used|control"),
    _case("no_grad inside", _Standardized, "no_grad|mean|std"),
    _case("torch.cdist", _Distances, "cdist"),
    _case("torch.utils.checkpoint", _Recomputed, "checkpoint|saved tensor hooks"),
    _case("an autograd.Function", _OwnFunction, "autograd.Function|_Cube|setup_context"),
    Case(
        "dropout, the same draws",
        _Dropout,
        partial(regression, 3, count=1),
        told="[Dd]ropout|random",
    ),
    _case("dropout, evaluated", lambda: _Dropout().eval(), "[Dd]ropout|random"),
    Case("inputs that are not contiguous", network, strided, told="contiguous|stride|view"),
)
