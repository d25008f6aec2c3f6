"""Knowledge distillation: a student learns from a teacher's soft labels, or from its geometry."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.checks import has_values


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
        A scalar, >= 0 up to rounding. A class that the teacher excludes (a logit of ``-inf``, or
        one so low that its probability is 0) adds nothing, whatever the student says of it. One
        that the student alone excludes makes the loss infinite, its gradient is what the formula
        says. NaN or ``+inf`` in either give NaN.

    Raises
    ------
    ValueError
        If ``temperature`` is not positive, the logits are not of one shape ``[B, classes]``
        with at least one row, or a row is ``-inf`` throughout.

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
    if len(shape) != 2 or 0 in shape or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student and teacher logits must both be [B, classes], "
            f"got shapes {shape} and {list(teacher_logits.shape)}"
        )
    _check_floats("logits", student_logits, teacher_logits)
    _check_a_class_is_left("student_logits", student_logits)
    _check_a_class_is_left("teacher_logits", teacher_logits)
    log_p_s = F.log_softmax(student_logits / temperature, dim=1)
    log_p_t = F.log_softmax(teacher_logits / temperature, dim=1)
    p_t = log_p_t.exp()
    # 0 · log 0 is 0, and so are its derivatives; 0 · (-inf - -inf) would be NaN
    apart = (log_p_t - log_p_s).masked_fill(p_t == 0, 0.0)
    return temperature**2 * (p_t * apart).sum() / apart.shape[0]


def _check_a_class_is_left(name: str, logits: Tensor) -> None:
    """Refuse rows that exclude every class: there is no softmax of them."""
    if not has_values(logits):  # the loss is NaN there
        return
    if rows := torch.isneginf(logits).all(1).nonzero().flatten().tolist():
        raise ValueError(f"{name} must leave a class, but row {rows[0]} is -inf throughout")


def rkd_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """How far the geometry of a student's features is from that of its teacher's.

    ``w_d · mean_ij h(d_ij^s - d_ij^t) + w_a · mean_ijk h(cos_ijk^s - cos_ijk^t)``

    with h the smooth L1 function, ``d_ij`` the distance of examples i and j over the mean
    distance of different examples, and ``cos_ijk`` the cosine of the angle at i between j and k.
    Both means run over all B² pairs and B³ triples. Translation, rotation and scaling of either
    side change nothing.

    Parameters
    ----------
    student_features : Tensor [B, F]
    teacher_features : Tensor [B, G]
        Of the same examples; the widths may differ. The loss is differentiable in both. A
        teacher that is not to be trained by it is detached by the caller.
    distance_weight, angle_weight : float, default 25 and 50
        ``w_d`` and ``w_a``, those of the authors of RepDistiller (Tian et al. 2020).

    Returns
    -------
    Tensor
        A scalar, >= 0; 0 for a batch of one. Examples that coincide have distance 0 and
        cosine 0, and no gradient pulls them apart.

    Raises
    ------
    ValueError
        If a weight is negative, or the features are not ``[B, F]`` and ``[B, G]`` with the same
        B and none of the three 0.

    References
    ----------
    Park et al., *Relational Knowledge Distillation*, 2019.

    Examples
    --------
    A triangle and the same triangle moved, turned and twice as large:

    >>> import torch
    >>> small = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> large = 1 + 2 * torch.stack([-small[:, 1], small[:, 0]], dim=1)
    >>> rkd_loss(large, small).item() < 1e-6
    True
    """
    check_weight("distance_weight", distance_weight)
    check_weight("angle_weight", angle_weight)
    shapes = [list(f.shape) for f in (student_features, teacher_features)]
    fit = [len(shape) for shape in shapes] == [2, 2] and shapes[0][0] == shapes[1][0]
    if not fit or 0 in shapes[0] + shapes[1]:
        raise ValueError(
            "student and teacher features must be [B, F] and [B, G], F and G >= 1, with one "
            f"B >= 1, got shapes {shapes[0]} and {shapes[1]}"
        )
    _check_floats("features", student_features, teacher_features)
    student, teacher = _Geometry(student_features), _Geometry(teacher_features)
    by_distance = F.smooth_l1_loss(student.distances, teacher.distances)
    by_angle = F.smooth_l1_loss(student.cosines, teacher.cosines)
    return distance_weight * by_distance + angle_weight * by_angle


class _Geometry:
    """Relative distances ``[B, B]`` and cosines ``[B, B, B]`` of features ``[B, F]``.

    The square root has no derivative at 0, so that coinciding examples are replaced before it
    and masked after it: a mask after it alone would let 0 · infinity through as NaN.
    """

    def __init__(self, features: Tensor) -> None:
        halves = features / 2  # whose differences are finite wherever the features are
        offsets = _in_range(halves.unsqueeze(0) - halves.unsqueeze(1))  # (B, B, F), from i to j
        squares = offsets.square().sum(2)
        apart = squares != 0  # true of NaN, which must not pass for examples that coincide
        lengths = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)  # (B, B)
        rows = features.shape[0]
        pairs = max(rows * (rows - 1), 1)
        mean = lengths.sum() / pairs
        self.distances = lengths / torch.where(mean > 0, mean, 1.0)
        directions = offsets / torch.where(apart, lengths, 1.0).unsqueeze(2)
        directions = torch.where(apart.unsqueeze(2), directions, 0.0)  # without a derivative
        self.cosines = directions @ directions.transpose(1, 2)


def _in_range(offsets: Tensor) -> Tensor:
    """These, or their shares of the largest if squares would overflow or vanish.

    No derivative goes through the largest: what is made of the shares does not depend on it.
    """
    largest, limits = offsets.detach().abs().flatten().amax(0), torch.finfo(offsets.dtype)
    small = (largest > 0) & (largest < limits.tiny**0.25)
    return offsets / torch.where(small | (largest > limits.max**0.25), largest, 1.0)


def _check_floats(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating-point numbers, got {tensor.dtype}")


def check_weight(name: str, weight: float) -> None:
    """Refuse weights of a loss that are negative or not finite.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {weight}")


def check_temperature(temperature: float) -> None:
    """Refuse what no softmax can be softened by without an overflow.

    Raises
    ------
    ValueError
        If ``temperature`` is not in 1e-6..1e9.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 1e-6 <= temperature <= 1e9:
        raise ValueError(f"temperature must be in 1e-6..1e9, got {temperature}")
