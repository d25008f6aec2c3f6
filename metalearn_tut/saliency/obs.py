"""Optimal brain surgery, layer by layer: what a weight is worth, and how the others make up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.capture import free_leaves
from metalearn_tut.saliency.hessians import LayerHessian

Scores = dict[str, Tensor]


def obs_scores(
    learner: MAML,
    hessians: Mapping[str, LayerHessian],
    *,
    guard: float = 1e-5,
    update_hinv: bool = False,
) -> Scores:
    """The score of ANP and L-OBS: ``s = w^2 / ([H^-1]_rr + guard)``.

    It is the layer's output error when weight w is removed and the others of its output unit
    make up for it as well as they can. The bias is the weight of the constant input 1. Which
    of the two scores it is depends on the Hessians alone: see :func:`layer_hessians`.

    Parameters
    ----------
    learner : MAML
        Whose weights are scored. Pruned ones have score 0.
    hessians : dict of layer name to LayerHessian
        The layers to score.
    guard : float, default 1e-5
        From the authors' code; 0 gives the exact error.
    update_hinv : bool, default False
        Take for every output unit the inverse of the Hessian of those of its inputs that are
        not pruned. The authors' code takes one inverse for all.

    Returns
    -------
    dict of parameter name to Tensor
        float64, of the parameter's shape.

    Raises
    ------
    ValueError
        If ``guard`` is negative.
    """
    _check_guard(guard)
    params, masks = parameters_of(learner.model), learner.masks
    scores: Scores = {}
    for layer, hessian in hessians.items():
        names = free_leaves(learner, layer)
        weights = as_rows(*(params[n].detach() for n in names)).double()  # [d, C_out]
        diagonal = hessian.inverse.diagonal().unsqueeze(1)  # [d, 1]
        keep = [masks.get(n, torch.ones_like(params[n])).to(params[n].device) for n in names]
        if update_hinv and not all(k.bool().all() for k in keep):
            diagonal = _diagonals(hessian, as_rows(*keep).bool())  # [d, C_out]
        rows = weights.square() / (diagonal + guard)
        shaped = from_rows(rows, *(params[n] for n in names))
        scores |= dict(zip(names, shaped, strict=True))
    return scores


def as_rows(weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A layer's weights as a matrix ``[d, C_out]``, one column per output unit, bias last."""
    rows = weight.flatten(1).T
    return rows if bias is None else torch.cat([rows, bias.unsqueeze(0)])


def from_rows(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """What :func:`as_rows` took apart from: tensors shaped as ``weight`` and ``bias``."""
    if bias is None:
        return [rows.T.reshape(weight.shape)]
    return [rows[:-1].T.reshape(weight.shape), rows[-1].clone()]


def _diagonals(hessian: LayerHessian, keep: Tensor) -> Tensor:
    """Column c: the diagonal of ``(H restricted to the kept rows of unit c)^-1``; else infinite."""
    matrix, diagonals = hessian.matrix, torch.full(keep.shape, torch.inf).to(hessian.gram)
    for unit, kept in enumerate(keep.T):
        rows = kept.nonzero().squeeze(1)
        factor = torch.linalg.cholesky(matrix[rows][:, rows])
        diagonals[rows, unit] = torch.cholesky_inverse(factor).diagonal()
    return diagonals


def prune_layer(
    weight: Tensor,
    bias: Tensor | None,
    keep_weight: Tensor,
    keep_bias: Tensor | None,
    hessian: LayerHessian,
    *,
    guard: float = 1e-5,
    update_hinv: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Remove weights of a layer; those that stay make up for them (OBS compensation).

    For each removed weight ``w_r``, in ascending order of its score, its unit's column moves by
    ``-w_r / ([H^-1]_rr + guard) · [H^-1]_:r`` with ``w_r`` as it is by then, ``H^-1`` fixed.
    At the end what was removed is set to exact zeros.

    Parameters
    ----------
    weight : Tensor [C_out, ...]
        Of a convolution or linear layer.
    bias : Tensor [C_out] or None
        As the layer has it.
    keep_weight, keep_bias : bool Tensor
        False where a weight is to be zero. Those that are zero already take no part.
    hessian : LayerHessian
        Of this layer.
    guard : float, default 1e-5
        As in :func:`obs_scores`.
    update_hinv : bool, default False
        Down-date ``H^-1`` of the unit after every removal:
        ``H^-1 <- H^-1 - [H^-1]_:r [H^-1]_r: / [H^-1]_rr`` (no guard). Without it, later
        removals move weights that are gone, and the move is lost. With it the result is the
        ridge least-squares refit of the weights that stay.

    Returns
    -------
    weight, bias : Tensor
        New tensors of the same dtype.

    Raises
    ------
    ValueError
        If a shape does not fit the Hessian, or ``guard`` is negative.

    Notes
    -----
    The removals of a unit need no loop. With R the removed rows in order and ``w_R`` their
    weights, the factors a in ``delta = -[H^-1]_:R a`` solve ``[H^-1]_RR a = w_R`` if the inverse
    is down-dated (all conditions ``w_R + delta_R = 0`` at once), and the lower triangle of the
    same system, guard added to its diagonal, if not.
    """
    _check_guard(guard)
    tensors = [weight] if bias is None else [weight, bias]
    rows = as_rows(*tensors).detach().to(torch.float64, copy=True)  # [d, C_out]
    keep = as_rows(*([keep_weight] if bias is None else [keep_weight, keep_bias])).bool()
    if keep.shape != rows.shape or len(rows) != len(hessian.gram):
        raise ValueError(
            f"layer {hessian.name!r} has {len(rows)} rows of weights (bias included), its masks "
            f"{len(keep)}, its Hessian {len(hessian.gram)}"
        )
    inverse, diagonal = hessian.inverse, hessian.inverse.diagonal()
    for unit in (~keep).any(0).nonzero().squeeze(1).tolist():
        w = rows[:, unit].clone()
        removed = (~keep[:, unit] & (update_hinv | (w != 0))).nonzero().squeeze(1)
        scores = w[removed].square() / (diagonal[removed] + guard)
        removed = removed[scores.argsort(stable=True)]
        factors = _factors(inverse[removed][:, removed], w[removed], guard, update_hinv)
        rows[:, unit] = w - inverse[:, removed] @ factors
    rows.masked_fill_(~keep, 0.0)
    pruned = [t.to(weight.dtype) for t in from_rows(rows, *tensors)]
    return pruned[0], None if bias is None else pruned[1]


def _factors(block: Tensor, w: Tensor, guard: float, update_hinv: bool) -> Tensor:
    """How far to move along each removed weight's column of the inverse: see the notes above."""
    w = w.unsqueeze(1)
    if update_hinv:
        return torch.cholesky_solve(w, torch.linalg.cholesky(block)).squeeze(1)
    block = block + guard * torch.eye(len(block)).to(block)
    return torch.linalg.solve_triangular(block, w, upper=False).squeeze(1)


def _check_guard(guard: float) -> None:
    if not guard >= 0:
        raise ValueError(f"guard must be >= 0, got {guard}")
