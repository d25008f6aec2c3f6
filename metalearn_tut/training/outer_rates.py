"""Adam's rates in the outer loop: how they fall, and which parameters have one of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metalearn_tut.bilevel import Params

SCHEDULES = ("cosine", "constant")


def cosine(step: int, steps: int) -> float:
    """From 1 at step 0 down to 0 at the end along half a cosine.

    Examples
    --------
    >>> [round(cosine(s, 4), 3) for s in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def parameter_groups(metas: Params, outer_lr: float | Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups of an optimizer, each with its rate; one group if there is one rate.

    Adam treats every number alone, so one Adam with two groups is two Adams.

    Parameters
    ----------
    metas : dict of name to Tensor
        The meta-parameters.
    outer_lr : float or mapping of name to float
        The rate of all; or of ``teacher.*`` and ``student.*`` as
        ``{"teacher": 1e-3, "student": 3e-3}``, and so for other beginnings of dotted names.

    Raises
    ------
    ValueError
        If a rate is not positive and finite, names no parameter, or a parameter has no rate or
        two.

    Examples
    --------
    >>> import torch
    >>> metas = {name: torch.ones(1) for name in ("a.weight", "a.bias", "b.weight")}
    >>> [len(group["params"]) for group in parameter_groups(metas, {"a": 0.1, "b": 0.2})]
    [2, 1]
    """
    if not isinstance(outer_lr, Mapping):
        _check_rate("outer_lr", outer_lr)
        return [{"params": list(metas.values()), "lr": outer_lr}]
    if not outer_lr:
        raise ValueError("outer_lr must have a rate for every meta-parameter, got {}")
    for name in metas:
        if sum(_begins(name, group) for group in outer_lr) != 1:
            raise ValueError(f"outer_lr must have one rate for {name!r}, got {dict(outer_lr)}")
    groups = []
    for group, rate in outer_lr.items():
        _check_rate(f"outer_lr[{group!r}]", rate)
        params = [p for name, p in metas.items() if _begins(name, group)]
        if not params:
            raise ValueError(f"outer_lr has a rate for {group!r}, which is no part of the learner")
        groups.append({"params": params, "lr": rate})
    return groups


def _begins(name: str, group: str) -> bool:
    return f"{name}.".startswith(f"{group}.")


def _check_rate(name: str, rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"{name} must be positive, got {rate}")
