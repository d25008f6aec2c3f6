"""What predictions are scored by, and what no score or loss can be taken of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Metric = Callable[[Tensor, Tensor], Any]
"""(outputs [B, ...], targets [B, ...]) of one task -> one number."""

_ELEMENTWISE = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
)
_ELEMENTWISE_MODULES = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
    *(nn.BCELoss, nn.BCEWithLogitsLoss),
)


def is_classification(outputs: Tensor, targets: Tensor) -> bool:
    """Whether these are logits ``[B, N]``, N >= 2, and class indices ``[B]``."""
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and targets.shape == outputs.shape[:1]
        and not targets.is_floating_point()
    )


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the rows whose largest logit is that of their class.

    Parameters
    ----------
    outputs : Tensor [B, N]
        Logits of N >= 2 classes. A row with NaN names no class, and is wrong.
    targets : Tensor [B]
        Class indices.

    Raises
    ------
    ValueError
        For anything else, which needs a metric of its own.

    Examples
    --------
    >>> accuracy(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([1, 1])).item()
    0.5
    """
    if not is_classification(outputs, targets):
        raise ValueError(
            "accuracy is of logits [B, N], N >= 2, and class indices [B], got outputs "
            f"{list(outputs.shape)} and {targets.dtype} targets {list(targets.shape)}: pass "
            "metric=, a function (outputs, targets) -> number, such as F.mse_loss"
        )
    right = (outputs.argmax(1) == targets) & ~outputs.isnan().any(1)
    return right.float().mean()


def score(metric: Metric | None, outputs: Tensor, targets: Tensor) -> Tensor:
    """One task's score, a scalar on the outputs' device: :func:`accuracy` without a metric.

    Raises
    ------
    ValueError
        If the metric gives more than one number, or broadcasts ``[B, 1]`` against ``[B]``.
    """
    if metric is None:
        return accuracy(outputs, targets)
    check_aligned(metric, outputs, targets, "metric")
    value = torch.as_tensor(metric(outputs, targets), device=outputs.device).detach()
    if value.numel() != 1:
        raise ValueError(f"metric must give one number per task, got shape {list(value.shape)}")
    value = value.reshape(())
    return value if value.is_floating_point() else value.float()


def scores(metric: Metric | None, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """The scores ``[T]`` of T tasks in training; None where accuracy is not defined.

    Parameters
    ----------
    outputs, targets : Tensor [T, B, ...]
    """
    if metric is None and not is_classification(outputs[0], targets[0]):
        return None
    return torch.stack([score(metric, o, y) for o, y in zip(outputs, targets, strict=True)])


def is_finite(outputs: Tensor) -> bool:
    """Whether there are neither NaN nor +inf; -inf is a class that is ruled out."""
    return not bool((outputs.isnan() | (outputs == torch.inf)).any())


def check_aligned(loss: Any, outputs: Tensor, targets: Tensor, name: str = "loss") -> None:
    """Refuse outputs ``[B, 1]`` and targets ``[B]``, of which subtraction makes ``[B, B]``.

    A loss that reshapes them itself is fine: it gives the same for outputs of the targets' shape.

    Raises
    ------
    ValueError
        Naming both shapes.
    """
    if outputs.shape == targets.shape or not _broadcasts(outputs, targets):
        return
    fine = not (loss in _ELEMENTWISE or isinstance(loss, _ELEMENTWISE_MODULES))
    if fine and outputs.numel() == targets.numel():
        fine = _same_value(loss, outputs.detach(), targets)
    if not fine:
        raise ValueError(
            f"{name} would broadcast outputs {list(outputs.shape)} against targets "
            f"{list(targets.shape)}: give both one shape, as outputs.squeeze(-1) or "
            "targets.unsqueeze(-1)"
        )


def _broadcasts(outputs: Tensor, targets: Tensor) -> bool:
    try:
        shape = torch.broadcast_shapes(outputs.shape, targets.shape)
    except RuntimeError:
        return False
    return shape.numel() > max(outputs.numel(), targets.numel()) or (
        outputs.numel() != targets.numel()
    )


def _same_value(loss: Any, outputs: Tensor, targets: Tensor) -> bool:
    """Whether the loss is the same when the outputs have the shape of the targets."""
    try:
        aligned = loss(outputs.reshape(targets.shape), targets)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return True  # it needs the shape that it is given
    found = loss(outputs, targets)
    return torch.allclose(
        torch.as_tensor(found).float(), torch.as_tensor(aligned).float(), rtol=1e-4, equal_nan=True
    )
