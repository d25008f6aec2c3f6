"""What is asked of the inner loop: its order, rates, optimizer, length; and of the tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.conformance.case import Case, classification, regression, single_precision
from metalearn_tut.conformance.cases.weights import network
from metalearn_tut.tasks.task import Task


def _classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def unbalanced() -> list[Task]:
    """Three classes with three, two and one support examples."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    return [
        Task(t.support_x, labels, t.query_x, t.query_y) for t in classification(3, ways=3, shots=2)
    ]


def of_two_sizes() -> list[Task]:
    """A task of three classes and one of two, for a network with three outputs."""
    return [classification(3, ways=3, shots=2)[0], classification(3, ways=2, shots=2)[1]]


def _rates(steps: int = 0) -> dict[str, Tensor]:
    """A rate for each parameter of :func:`network`, all different; ``[steps]`` or one."""
    rates = torch.arange(1.0, 13, dtype=torch.float64).view(-1, 2) / 32
    names = [name for name, _ in network().named_parameters()]
    each = zip(names, rates, strict=True)
    return {name: rate[:steps].clone() if steps else rate[0].clone() for name, rate in each}


def _case(name: str, told: str = r"(?!)", **settings: Any) -> Case:
    return Case(name, network, partial(regression, 3), told=told, **settings)


LEARNING = (
    _case("no inner step", inner_steps=0),
    _case("one inner step", inner_steps=1),
    _case("twenty inner steps", inner_steps=20),
    _case("first order", options={"first_order": True}),
    _case("learned rates, one a parameter", "rate", options={"rates": _rates()}),
    _case("learned rates, one a parameter and step", "rate", options={"rates": _rates(2)}),
    _case("inner SGD with momentum", "momentum", options={"optimizer": "momentum"}),
    _case("inner Adam", "[Aa]dam", options={"optimizer": "adam"}),
    _case("inner Adam, eps of 1/1024", "[Aa]dam", options={"optimizer": "adam_eps"}),
    Case(
        "implicit, at the minimum",
        lambda: nn.Linear(3, 1).double(),
        partial(regression, 3),
        inner_lr=0.125,
        inner_steps=100,
        options={"prox_weight": 2.0},
        told="prox",
    ),
    Case("float32", lambda: network().float(), partial(single_precision, 3), tolerance=1e-4),
    Case("cross entropy", _classifier, partial(classification, 3), F.cross_entropy),
    Case("classes of unequal size", _classifier, unbalanced, F.cross_entropy, told="rows|size"),
    Case(
        "tasks of unequal size", _classifier, of_two_sizes, F.cross_entropy, told="size|shape|stack"
    ),
)
