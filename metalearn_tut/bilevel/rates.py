"""Inner rates as meta-parameters: how many there are, and how the inner loop reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel.inner import Params, Rate

RATE_MODES = ("fixed", "shared", "per_layer", "per_layer_and_step", "per_weight")


def initial_rates(mode: str, params: Params, lr: float, steps: int) -> Params:
    """The learned rates of one of :data:`RATE_MODES` at their start, all equal to ``lr``.

    ``"shared"`` is a scalar called ``rates``; the others have an entry ``rates.<name>`` for each
    parameter: a scalar (``"per_layer"``), ``[steps]`` (``"per_layer_and_step"``), or the
    parameter's shape (``"per_weight"``).
    """
    if mode == "fixed":
        return {}
    if mode == "shared":
        shapes: dict[str, tuple[int, ...]] = {"rates": ()}
    else:
        per = {
            "per_layer": lambda p: (),
            "per_layer_and_step": lambda p: (steps,),
            "per_weight": lambda p: p.shape,
        }[mode]
        shapes = {f"rates.{n}": tuple(per(p)) for n, p in params.items()}
    like = next(iter(params.values()), torch.empty(()))
    starts = {n: torch.full(s, lr, dtype=like.dtype, device=like.device) for n, s in shapes.items()}
    return {n: nn.Parameter(start) for n, start in starts.items()}


def rates_of(
    mode: str, metas: Params, params: Params, *, lead: int, trained: int, steps: int
) -> Rate:
    """The learned rates among ``metas`` in the form that :func:`inner_path` takes.

    Parameters
    ----------
    lead : int
        Number of leading task dimensions of ``metas`` and ``params``: 0 or 1.
    trained, steps : int
        Number of steps in training and now; later steps than were trained use the last rate.
    """

    def wide(rate: Tensor, p: Tensor) -> Tensor:
        return rate.reshape(rate.shape + (1,) * (p.ndim - lead))

    if mode == "per_weight":
        return {n: metas[f"rates.{n}"] for n in params}
    if mode == "shared":
        return {n: wide(metas["rates"], p) for n, p in params.items()}
    if mode == "per_layer":
        return {n: wide(metas[f"rates.{n}"], p) for n, p in params.items()}
    return [
        {n: wide(metas[f"rates.{n}"][..., min(k, trained - 1)], p) for n, p in params.items()}
        for k in range(steps)
    ]
