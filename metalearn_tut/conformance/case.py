"""One case: a small network, tasks, and what is asked of an inner loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.scoring import TaskLoss
from metalearn_tut.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Case:
    """A question with one right answer: the meta-gradient of this network on these tasks.

    Parameters
    ----------
    name : str
        A few words, unique.
    build : callable
        Makes the network; random numbers are seeded around it.
    tasks : callable
        Makes the list of tasks.
    loss : callable, default mean squared error
        (outputs, targets) -> scalar.
    inner_lr : float, default 0.25
        Rate of the inner loop; like all rates here a number that float32 holds exactly.
    inner_steps : int, default 2
        The least that shows an error in the second step.
    options : mapping, optional
        Further keywords for the learner: ``first_order``, ``rates``, ``optimizer``,
        ``prox_weight`` (see the room's docstring). Who does not take them does not offer them.
    told : str, optional
        Regular expression: an error that matches it names what is in the way.
    exact : callable, optional
        Makes the same function in float64, where ``build`` computes with less.
    tolerance : float, default 1e-6
        Largest relative error of a right answer.
    """

    name: str
    build: Callable[[], nn.Module]
    tasks: Callable[[], list[Task]]
    loss: TaskLoss = field(default_factory=lambda: F.mse_loss)
    inner_lr: float = 0.25
    inner_steps: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)
    told: str = r"(?!)"  # matches nothing
    exact: Callable[[], nn.Module] | None = None
    tolerance: float = 1e-6

    def module(self) -> nn.Module:
        """The network, the same numbers each time."""
        return _seeded(self.build)

    def in_float64(self) -> nn.Module:
        """The network that the right value is computed with."""
        return _seeded(self.exact or self.build).double()


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def regression(*shape: int, targets: int = 1, count: int = 2, rows: int = 4) -> list[Task]:
    """``count`` tasks with real targets ``[rows, targets]`` and inputs ``[rows, *shape]``."""
    return [
        Task(
            numbers(rows, *shape, seed=4 * i),
            numbers(rows, targets, seed=4 * i + 1),
            numbers(rows, *shape, seed=4 * i + 2),
            numbers(rows, targets, seed=4 * i + 3),
        )
        for i in range(count)
    ]


def single_precision(*shape: int) -> list[Task]:
    """The tasks of :func:`regression` in float32."""
    parts = ((t.support_x, t.support_y, t.query_x, t.query_y) for t in regression(*shape))
    return [Task(*(part.float() for part in four)) for four in parts]


def classification(
    *shape: int, ways: int = 3, shots: int = 1, count: int = 2, dtype: torch.dtype = torch.float64
) -> list[Task]:
    """``count`` tasks of ``ways`` classes, inputs ``[ways·shots, *shape]``, as many queries."""
    labels = torch.arange(ways).repeat_interleave(shots)
    return [
        Task(
            numbers(len(labels), *shape, seed=2 * i).to(dtype),
            labels,
            numbers(len(labels), *shape, seed=2 * i + 1).to(dtype),
            labels,
        )
        for i in range(count)
    ]
