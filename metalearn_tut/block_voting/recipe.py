"""How long and how fast a network is trained, and what becomes of its images meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.checks import check_choice, whole_number
from metalearn_tut.files.content import described

Augment = Callable[[Tensor, torch.Generator], Tensor]

EPOCH_RATES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "steps": lambda done: 0.1 ** ((done >= 1 / 2) + (done >= 3 / 4)),
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum on shuffled batches.

    Parameters
    ----------
    epochs : int
        Passes over the images; 0 trains nothing.
    lr : float, default 0.1
        Rate at the start.
    schedule : {"cosine", "steps", "constant"}
        How the rate goes on from epoch to epoch: down along half a cosine; a tenth of it after
        half of the epochs and a hundredth after three quarters; not at all.
    batch : int, default 128
        Images of a step, at most: an epoch is cut into steps of equal size.
    momentum, weight_decay : float, default 0.9 and 1e-4
        Of SGD, for all parameters.
    augment : callable, optional
        ``augment(x, generator)`` changes each batch of floating-point images, e.g.
        :func:`crop_and_flip`.
    bfloat16 : bool, default False
        Compute convolutions and products of a step in ``bfloat16`` (PyTorch's autocast), which
        takes half of the memory traffic on a GPU. Weights, sums and the optimizer keep theirs.
    recorded : bool, default False
        On a GPU, record a step of every epoch as a CUDA graph and replay it. For a small network
        that is several times as fast, since its kernels take less time than to ask for them.
        Objective and network must not look at values on the way.

    Raises
    ------
    ValueError
        If a number is out of range or the schedule unknown.

    Examples
    --------
    >>> [Recipe(4, schedule="steps").rate(epoch) for epoch in range(4)]  # doctest: +ELLIPSIS
    [0.1, 0.1, 0.01..., 0.001...]
    """

    epochs: int
    lr: float = 0.1
    schedule: str = "cosine"
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: Augment | None = None
    bfloat16: bool = False
    recorded: bool = False

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, EPOCH_RATES)
        for name, least in (("epochs", 0), ("batch", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * EPOCH_RATES[self.schedule](epoch / self.epochs)

    def settings(self) -> dict[str, Any]:
        """The same as JSON, for files: an augmentation by what it does, arguments included."""
        return described(vars(self))


def crop_and_flip(
    x: Tensor, generator: torch.Generator, padding: int = 4, flip: bool = True
) -> Tensor:
    """Shift each image by up to ``padding`` pixels (zeros come in), and mirror half of them.

    Parameters
    ----------
    x : Tensor [B, C, H, W]
    generator : torch.Generator
        On the CPU.
    padding : int, default 4
    flip : bool, default True
        False for characters, which are others in a mirror.
    """
    rows, _, height, width = x.shape
    shift = torch.randint(2 * padding + 1, (2, rows, 1), generator=generator)
    mirrored = torch.rand(rows, 1, generator=generator) < (0.5 if flip else 0.0)
    # so few numbers that a GPU takes them along without being waited for
    shift, mirrored = (n.to(x.device, non_blocking=True) for n in (shift, mirrored))
    down, right = shift
    ys = down + torch.arange(height, device=x.device)  # (B, H)
    xs = right + torch.arange(width, device=x.device)  # (B, W)
    xs = torch.where(mirrored, xs.flip(1), xs)
    index = torch.arange(rows, device=x.device)[:, None, None], ys[:, :, None], xs[:, None, :]
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[index].permute(0, 3, 1, 2)


def standard_recipes(
    augment: Augment | None = crop_and_flip,
) -> tuple[Recipe, Recipe, Recipe]:
    """Recipes of the three stages of :func:`abp_prune`: gates, each round, and at the end.

    Stages 1 and 3 as long as is usual on CIFAR, five epochs a round; images are padded by 4,
    cropped at random and mirrored, as is usual there. The paper's own recipes are not known.

    Parameters
    ----------
    augment : callable or None, default crop_and_flip
        None, or ``functools.partial(crop_and_flip, flip=False)``, for images that are not
        natural: a mirrored character is another one.

    Examples
    --------
    >>> [(recipe.epochs, recipe.lr, recipe.augment.__name__) for recipe in standard_recipes()]
    [(160, 0.1, 'crop_and_flip'), (5, 0.01, 'crop_and_flip'), (100, 0.01, 'crop_and_flip')]
    """
    gates, each, last = (160, 0.1), (5, 0.01), (100, 0.01)
    return tuple(Recipe(*stage, augment=augment) for stage in (gates, each, last))
