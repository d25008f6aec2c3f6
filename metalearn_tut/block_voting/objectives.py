"""What a step of training descends: labels alone, a teacher as well, or a rate of open gates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.distillation.losses import check_temperature, kd_loss

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``objective(network, x, y)`` -> loss, and logits ``[B, classes]``."""


def cross_entropy(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of the labels ``y [B]``, a mean over images."""
    logits = network(x)
    return F.cross_entropy(logits, y), logits


def distillation(teacher: nn.Module, temperature: float = 4.0, weight: float = 0.9) -> Objective:
    """Cross-entropy plus ``weight`` times the distillation loss from ``teacher``.

    Parameters
    ----------
    teacher : nn.Module
        Asked in evaluation mode, and never trained; to stay as it is, it must be a copy of what
        is trained.
    temperature, weight : float, default 4 and 0.9
        See :func:`~metalearn_tut.distillation.kd_loss`. That ABP distils is a fact, that it
        does so with this formula and these numbers is our choice.

    Raises
    ------
    ValueError
        If ``weight`` is negative or ``temperature`` not positive.
    """
    check_distillation(temperature, weight)
    if weight == 0:
        return cross_entropy
    teacher.eval()

    def objective(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = cross_entropy(network, x, y)
        with torch.no_grad():
            wanted = teacher(x)
        return loss + weight * kd_loss(logits, wanted, temperature), logits

    said = {"name": "distillation", "temperature": temperature, "weight": weight}
    return _known_by(objective, said)


def _known_by(objective: Objective, settings: dict[str, Any]) -> Objective:
    """The same objective, with a ``settings()`` by which a run that is resumed is compared."""
    objective.settings = lambda: settings  # type: ignore[attr-defined]
    return objective


def check_distillation(temperature: float, weight: float) -> None:
    """Refuse a temperature or weight that :func:`distillation` cannot have.

    Raises
    ------
    ValueError
        As there.
    """
    check_temperature(temperature)
    if not 0 <= weight < math.inf:
        raise ValueError(f"the weight of distillation must be at least 0, got {weight}")


def target_rate(target: float, weight: float = 2.0) -> Objective:
    """Cross-entropy plus ``weight · mean_l (target - mean_b g_l(x_b))²``, over gated blocks l.

    ConvNet-AIG's loss, on the soft marks of a batch. ABP's figure has no such loss: there the
    task alone trains the gates. An option for comparisons.

    Raises
    ------
    ValueError
        If ``target`` is not in [0, 1].
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target must be in [0, 1], got {target}")

    def objective(gated: BlockGated, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits, marks = gated.run(x)
        columns = [gated.numbers.index(int(name)) for name in gated.gates]
        rates = marks[:, columns].mean(0)
        loss = F.cross_entropy(logits, y) + weight * (target - rates).square().mean()
        return loss, logits

    return _known_by(objective, {"name": "target_rate", "target": target, "weight": weight})
