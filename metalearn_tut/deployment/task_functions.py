"""What a learner computes, as functions of tensors: whole, and in two halves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.learners.learner import Learner
from metalearn_tut.models.bound import with_tensors
from metalearn_tut.tasks.task import as_float


@dataclass(frozen=True)
class TaskFunctions:
    """The core of a learner, which only computes, behind a door that can only compute, too.

    Parameters
    ----------
    learner : Learner
        As ``working(training=False)`` gives it.
    ways : int
        Number of classes.
    options : mapping
        Of its core, such as the number of inner steps.
    most : int, optional
        Largest number of support images, where it is not free.
    """

    learner: Learner
    ways: int
    options: Mapping[str, Any]
    most: int | None = None

    def logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Logits ``[Q, ways]`` after learning from the support set."""
        network = self.network(support_x, support_y)
        return network(as_float(query_x)) + self.refusal(support_x, support_y)

    def network(self, support_x: Tensor, support_y: Tensor) -> nn.Module:
        """The network that has learned; labels that are none count as the nearest."""
        labels = support_y.clamp(0, self.ways - 1)
        return self.learner.task_network(as_float(support_x), labels, **self.options)

    def refusal(self, support_x: Tensor, support_y: Tensor) -> Tensor:
        """0 for a support set to learn from, NaN for any other.

        It has an image of each class, ``most`` at most, no label outside ``0..ways-1`` and no
        number that is not finite.
        """
        counts = (support_y.unsqueeze(1) == torch.arange(self.ways)).sum(0)  # [ways]
        outside = ((support_y < 0) | (support_y >= self.ways)).sum()
        fine = (counts == 0).sum() + outside == 0
        if self.most is not None:
            fine = fine & (counts.sum() <= self.most)
        if support_x.is_floating_point():
            fine = fine & support_x.sum().isfinite()
        return torch.where(fine, 0.0, torch.nan)


def classify(network: nn.Module, weights: Mapping[str, Tensor], query_x: Tensor) -> Tensor:
    """Logits ``[Q, ways]`` by a network with these tensors in place of its own."""
    return with_tensors(network, weights)(as_float(query_x))


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers, by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
