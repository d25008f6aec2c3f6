"""The right value: ordinary training with ``torch.optim``, and differences of what it reaches.

Nothing here differentiates twice, copies a module or swaps its parameters: the meta-loss is what
the network's loss on the query set is after ``loss.backward()`` and ``optimizer.step()`` on the
support set, as everybody trains. Its slope in each number of the start is a central difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from metalearn_tut.conformance.case import Case
from metalearn_tut.tasks.task import Task

STEP, LARGE = 1e-6, 200
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.875}),
    "adam": (torch.optim.Adam, {}),
    "adam_eps": (torch.optim.Adam, {"eps": 2**-10}),
}
"""What ``optimizer=`` names, as ``torch.optim`` has it."""
Gradients = dict[str, Tensor]


class Trained:
    """A network in float64 whose start can be set, trained on one task after another."""

    def __init__(self, case: Case) -> None:
        self.case, self.module = case, case.in_float64()
        self.tasks = [_in_float64(task) for task in case.tasks()]
        self.params = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        self.buffers = {n: b.detach().clone() for n, b in self.module.named_buffers()}
        self.start = {n: p.detach().clone().contiguous() for n, p in self.params.items()}
        self.rates = {n: r.detach().clone() for n, r in case.options.get("rates", {}).items()}

    def begin(self) -> None:
        """Everything as it was before training."""
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(self.start[name])
            for name, b in self.module.named_buffers():
                b.copy_(self.buffers[name])

    def descend(self, task: Task) -> None:
        """The inner loop."""
        kind, settings = OPTIMIZERS[self.case.options.get("optimizer", "sgd")]
        groups = [{"params": [p]} for p in self.params.values()]
        optimizer = kind(groups, lr=self.case.inner_lr, **settings)
        prox_weight = self.case.options.get("prox_weight", 0.0)
        for step in range(self.case.inner_steps):
            for name, group in zip(self.params, optimizer.param_groups, strict=True):
                if name in self.rates:
                    rate = self.rates[name]
                    group["lr"] = (rate[step] if rate.ndim else rate).item()
            optimizer.zero_grad()
            self.case.loss(self.module(task.support_x), task.support_y).backward()
            if prox_weight:
                for name, p in self.params.items():
                    p.grad += prox_weight * (p.detach() - self.start[name])
            optimizer.step()

    @torch.no_grad()
    def query_loss(self, task: Task) -> float:
        """What the meta-loss is the mean of."""
        return self.case.loss(self.module(task.query_x), task.query_y).item()

    def meta_loss(self) -> float:
        """The mean query loss after training, from the start as it is set now."""
        torch.manual_seed(0)
        total = 0.0
        for task in self.tasks:
            self.begin()
            self.descend(task)
            total += self.query_loss(task)
        return total / len(self.tasks)


def slopes(value: Callable[[], float], at: Mapping[str, Tensor], step: float) -> Gradients:
    """Central differences of ``value`` in each number of ``at``, which are changed in place."""
    found = {name: torch.zeros_like(tensor) for name, tensor in at.items()}
    for name, tensor in at.items():
        flat, slope = tensor.detach().view(-1), found[name].view(-1)
        for i, middle in enumerate(flat.tolist()):
            ends = []
            for shifted in (middle + step, middle - step):
                flat[i] = shifted
                ends.append(value())
            flat[i] = middle
            slope[i] = (ends[0] - ends[1]) / (2 * step)
    return found


def by_differences(case: Case, step: float = STEP) -> Gradients:
    """The right value of a small case: one difference for each number of its start."""
    trained = Trained(case)
    if case.options.get("first_order"):
        return _mean([*_at_the_end(trained, step)])
    found = slopes(trained.meta_loss, trained.start, step)
    rates = slopes(trained.meta_loss, trained.rates, step)
    return found | {f"rates.{name}": slope for name, slope in rates.items()}


def _at_the_end(trained: Trained, step: float) -> Iterator[Gradients]:
    """FOMAML: for each task the slopes of its query loss in the trained numbers."""
    for task in trained.tasks:
        trained.begin()
        trained.descend(task)
        ends = {name: p.detach() for name, p in trained.params.items()}
        yield slopes(partial(trained.query_loss, task), ends, step)


def _mean(each: Sequence[Gradients]) -> Gradients:
    return {n: torch.stack([g[n] for g in each]).mean(0) for n in each[0]}


def by_autograd(case: Case) -> Gradients:
    """The right value of a large case: the inner loop unrolled in float64, in five plain lines.

    The tests hold it to differences along random directions.
    """
    module, total = case.in_float64(), torch.zeros((), dtype=torch.float64)
    start = dict(module.named_parameters())
    for task in map(_in_float64, case.tasks()):
        params = start
        for _ in range(case.inner_steps):
            loss = case.loss(functional_call(module, params, task.support_x), task.support_y)
            found = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            steps = zip(params.items(), found, strict=True)
            params = {name: p - case.inner_lr * slope for (name, p), slope in steps}
        outputs = functional_call(module, params, task.query_x)
        total = total + case.loss(outputs, task.query_y) / len(case.tasks())
    found = torch.autograd.grad(total, list(start.values()))
    return dict(zip(start, found, strict=True))


def right_value(case: Case) -> Gradients:
    """The meta-gradient of a case by name, computed once in a process.

    Its entries are the network's parameters that are not frozen, and ``rates.NAME`` for each
    rate that the case gives. Do not change them.
    """
    return _computed(case)


@cache
def _computed(case: Case) -> Gradients:
    size = sum(p.numel() for p in case.in_float64().parameters())
    return by_autograd(case) if size > LARGE else by_differences(case)


def _in_float64(task: Task) -> Task:
    parts = (task.support_x, task.support_y, task.query_x, task.query_y)
    return Task(*(part.double() if part.is_floating_point() else part for part in parts))
