"""Floor 2: what predictions are scored by, and what no score or loss can be taken of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Metric = Callable[[Tensor, Tensor], Any]
"""(outputs [B, ...], targets [B, ...]) of one task -> one number."""
TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [B, ...], targets [B, ...]) of one task -> one number with a gradient."""

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
        For anything else, which needs a metric of its own; without a row, or for an index below
        0. One of N or more is of a class that the support set lacks, and its row is wrong.

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
    _check_judged(outputs, targets)
    right = (outputs.argmax(1) == targets) & ~outputs.isnan().any(1)
    return right.float().mean()


def _check_judged(outputs: Tensor, targets: Tensor) -> None:
    """Refuse to count what has no class as wrong, or to call a mean of nothing a score."""
    if not len(targets):
        raise ValueError("accuracy needs query examples, got none")
    if (low := int(targets.min())) < 0:
        raise ValueError(f"query_y must hold labels >= 0, got {low}: leave out what has no class")


def score(metric: Metric | None, outputs: Tensor, targets: Tensor) -> Tensor:
    """One task's score, a scalar on the outputs' device: :func:`accuracy` without a metric.

    Raises
    ------
    ValueError
        If the metric gives more than one number, or broadcasts ``[B, 1]`` against ``[B]``.
    TypeError
        If it gives no number at all.
    """
    if metric is None:
        return accuracy(outputs, targets)
    check_aligned(metric, outputs, targets, "metric")
    given = metric(outputs.clone(), targets.clone())  # what it does to them stays with it
    try:
        value = torch.as_tensor(given, device=outputs.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"metric must give one number per task, got {given!r}") from error
    if value.numel() != 1 or value.is_complex():
        shown = f"shape {list(value.shape)}" if value.numel() != 1 else repr(given)
        raise ValueError(f"metric must give one number per task, got {shown}")
    # of one dtype whatever it gives for which task: tasks are stacked, and sent by processes
    return value.reshape(()).to(torch.float32 if value.device.type == "mps" else torch.float64)


def check_function(name: str, value: object, *, optional: bool = False) -> None:
    """Refuse what cannot be called with (outputs, targets), such as a name or a class.

    None stands for a default where the argument is ``optional``.

    Raises
    ------
    TypeError
        Naming the argument.
    """
    if optional and value is None:
        return
    if not callable(value) or isinstance(value, type):
        made = f": make one, {value.__name__}()" if isinstance(value, type) else ""
        raise TypeError(
            f"{name} must be a function (outputs, targets) -> number, such as F.mse_loss, "
            f"got {value!r}{made}"
        )


def check_loss(name: str, loss: object, *, optional: bool = False) -> None:
    """Refuse what is no function of (outputs, targets), or has weights that nobody would train.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    check_function(name, loss, optional=optional)
    own = loss.named_parameters() if isinstance(loss, nn.Module) else ()
    if trained := [n for n, p in own if p.requires_grad]:
        raise ValueError(
            f"{name} has parameters of its own ({', '.join(trained)}), which no learner trains: "
            "freeze them (requires_grad_(False)), or make them part of the model"
        )


def scalar_loss(loss: TaskLoss, name: str = "loss") -> TaskLoss:
    """The same loss, of which every call is checked, and gets copies: it may change them."""
    return partial(_one_loss, loss, name)


def _one_loss(loss: TaskLoss, name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """One task's loss, a scalar that can be differentiated wherever the outputs can.

    Raises
    ------
    TypeError
        If it gives no tensor.
    ValueError
        If it gives more than one number, an integer, or a value cut off from the outputs.
    """
    value = loss(outputs.clone(), targets.clone())
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must give a tensor with one number, as F.cross_entropy does, "
            f"got {type(value).__name__}"
        )
    if value.numel() != 1:
        raise ValueError(
            f"{name} must give one number per task, got shape {list(value.shape)}: take the mean "
            'over the examples (reduction="mean")'
        )
    cut_off = torch.is_grad_enabled() and outputs.requires_grad and not value.requires_grad
    if cut_off or not value.is_floating_point():
        raise ValueError(
            f"{name} must be a differentiable function of the outputs, got {value.dtype} without "
            "a gradient: argmax, comparisons, .detach() and .item() cut it off"
        )
    return value.reshape(())


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
    fine = not is_elementwise(loss)
    if fine and outputs.numel() == targets.numel():
        fine = _same_value(loss, outputs.detach(), targets)
    if not fine:
        raise ValueError(
            f"{name} would broadcast outputs {list(outputs.shape)} against targets "
            f"{list(targets.shape)}: give both one shape, as outputs.squeeze(-1) or "
            "targets.unsqueeze(-1)"
        )


def unwrapped(loss: Any) -> Any:
    """What is behind a partial."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss


def is_elementwise(loss: Any) -> bool:
    """Whether a loss is one of PyTorch's that compare outputs and targets entry by entry."""
    loss = unwrapped(loss)
    return isinstance(loss, _ELEMENTWISE_MODULES) or any(loss is f for f in _ELEMENTWISE)


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
        aligned = loss(outputs.reshape(targets.shape).clone(), targets.clone())
    except (RuntimeError, ValueError, IndexError, TypeError):
        return True  # it needs the shape that it is given
    found = loss(outputs.clone(), targets.clone())
    return torch.allclose(
        torch.as_tensor(found).float(), torch.as_tensor(aligned).float(), rtol=1e-4, equal_nan=True
    )
