"""Knowledge distillation: a student learns from the soft labels of a teacher."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """How far a student's softened predictions are from its teacher's.

    ``T² · 1/B · sum_b KL(softmax(z_t / T) || softmax(z_s / T))``

    The gradient with respect to the student's logits is ``T (p_s - p_t) / B``, so that T² keeps
    it from vanishing as T grows; in the limit the loss is half the mean square difference of
    the centered logits (summed over examples, over B).

    Parameters
    ----------
    student_logits, teacher_logits : Tensor [B, classes]
        The loss is differentiable in both. A teacher that is not to be trained by it is
        detached by the caller.
    temperature : float, default 4
        T > 0: what both are divided by before the softmax.

    Returns
    -------
    Tensor
        A scalar, >= 0 up to rounding.

    Raises
    ------
    ValueError
        If ``temperature`` is not positive, or the logits are not of one shape ``[B, classes]``
        with at least one row.

    References
    ----------
    Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> kd_loss(logits, logits).item()
    0.0
    >>> round(kd_loss(logits, torch.zeros(2, 2), temperature=1.0).item(), 3)
    0.277
    """
    check_temperature(temperature)
    shape = list(student_logits.shape)
    if len(shape) != 2 or not shape[0] or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student and teacher logits must both be [B, classes], "
            f"got shapes {shape} and {list(teacher_logits.shape)}"
        )
    student, teacher = (
        F.log_softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits)
    )
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def check_temperature(temperature: float) -> None:
    """Refuse what no softmax can be softened by.

    Raises
    ------
    ValueError
        If ``temperature`` is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive, got {temperature}")
