"""The sum over a range of ranks as a saddle point over two thresholds, in two forms.

``psi = sum_{i=m+1}^{k} l_[i]`` needs no sorting if it is written as a minimum over a lower
threshold and a maximum over an upper one. Both forms are derived (and tested) here to have
that value; their derivatives tell a tracker where to move its thresholds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metalearn_tut.rank_losses.aggregate import check_losses

Threshold = Tensor | float | None


def difference_of_tops(
    losses: Tensor,
    m: int,
    k: int,
    low: Threshold,
    high: Threshold,
    sharpness: float | None = None,
) -> Tensor:
    """The first form: a difference of two convex functions, thresholds in units of the loss.

    ``F1 = k·low + sum_i [l_i - low]_+ - (m·high + sum_i [l_i - high]_+)``, minimal in ``low``
    for ``l_[k+1] <= low <= l_[k]`` and maximal in ``high`` for ``l_[m+1] <= high <= l_[m]``,
    where it is ``psi``. Its derivative with respect to the losses is
    ``1[low < l_i <= high]``, with respect to the thresholds ``k - #{l_i > low}`` and
    ``#{l_i > high} - m``.

    Parameters
    ----------
    losses : Tensor [n]
    m, k : int
        Ranks m+1..k are summed.
    low : Tensor or float or None
        None drops that part, as if it were below all losses: for ``k = n``.
    high : Tensor or float or None
        None drops that part, as if it were infinite: for ``m = 0``.
    sharpness : float, optional
        Smooth the hinge to ``log(1 + exp(a x))/a`` with this a; at most ``log(2)/a`` above it.

    Examples
    --------
    >>> losses = torch.tensor([5.0, 1.0, 4.0, 2.0])
    >>> difference_of_tops(losses, m=1, k=3, low=2.0, high=5.0).item()  # 4 + 2
    6.0
    """
    _check(losses, m, k)
    lower = losses.sum() if low is None else k * low + hinge(losses - low, sharpness).sum()
    return lower if high is None else lower - m * high - hinge(losses - high, sharpness).sum()


def nested_hinges(losses: Tensor, m: int, k: int, low: Threshold, gap: Threshold) -> Tensor:
    """The second form, whose upper threshold is ``low + gap``.

    ``F2 = (k-m)·low + (n-m)·gap - sum_i [gap - [l_i - low]_+]_+``, ``psi`` at ``low = l_[k]``
    and ``gap = l_[m] - l_[k]``. Its derivative with respect to the losses is
    ``1[low < l_i < low + gap]``, with respect to the thresholds
    ``(k-m) - #{low < l_i < low + gap}`` and ``(n-m) - #{[l_i - low]_+ < gap}``. It is the form
    of the public code for ranked ranges by HeTRoM's authors.

    Parameters
    ----------
    losses : Tensor [n]
    m, k : int
        Ranks m+1..k are summed.
    low : Tensor or float or None
        None drops the inner hinge; ``gap`` is then the upper threshold itself.
    gap : Tensor or float or None
        None drops the outer hinge, as if it were infinite.
    """
    _check(losses, m, k)
    base, excess = (0.0, losses) if low is None else ((k - m) * low, hinge(losses - low))
    if gap is None:
        return base + excess.sum()
    return base + (len(losses) - m) * gap - hinge(gap - excess).sum()


def _check(losses: Tensor, m: int, k: int) -> None:
    check_losses(losses)
    if not 0 <= m < k <= len(losses):
        raise ValueError(f"needs 0 <= m < k <= n, got m={m}, k={k} with n={len(losses)} losses")


def hinge(x: Tensor, sharpness: float | None = None) -> Tensor:
    """``[x]_+``, with slope 0 at 0; or its smooth upper bound ``log(1 + exp(a x))/a``."""
    if sharpness is None:
        return torch.relu(x)
    return torch.logaddexp(sharpness * x, x.new_zeros(())) / sharpness
