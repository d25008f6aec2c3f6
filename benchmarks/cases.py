"""What is measured: a network, its images, its tasks and its inner loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from metalearn_tut import models, tasks
from metalearn_tut.tasks import EpisodeSampler

WAYS, QUERIES, TASKS, INNER_LR = 5, 15, 4, 0.4


class Case(NamedTuple):
    """Conv4 of a width, images of a side, examples per class, and inner steps."""

    width: int
    size: int
    shots: int
    steps: int

    def __str__(self) -> str:
        steps = f"{self.steps} inner step{'s' * (self.steps > 1)}"
        return f"Conv4-{self.width}, {self.size}x{self.size}, {self.shots}-shot, {steps}"

    @property
    def channels(self) -> int:
        return 1 if self.size == 28 else 3

    def network(self) -> models.Conv4:
        torch.manual_seed(0)
        net = models.Conv4(self.channels, WAYS, width=self.width, image_size=self.size)
        nn.init.normal_(net.head.weight, std=0.1)  # a zero head would have a zero body gradient
        return net

    def sampler(self) -> EpisodeSampler:
        """Glyphs, or noise of another size: how long it takes does not depend on the pixels."""
        if self.size == 28:
            source = tasks.glyphs("train")
        else:
            shape = (8 * 20, self.channels, self.size, self.size)
            seed = torch.Generator().manual_seed(0)
            x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seed)
            source = tasks.from_arrays(x, torch.arange(len(x)) % 8)
        return source.sampler(WAYS, self.shots, QUERIES, seed=0)


FIRST = Case(32, 28, 1, 1)
