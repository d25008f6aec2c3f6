"""Are losses log-normal? A test and a plot's points, for losses whose model is fitted to them."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor


def log_normal_fit(losses: Tensor) -> dict[str, Any]:
    """How far the logarithms of losses ``[n]`` are from a normal distribution.

    Returns
    -------
    dict
        ``mu`` and ``sigma`` of the logarithms; ``ks``, the largest distance between their
        distribution function and that of the fitted normal one (Kolmogorov-Smirnov);
        ``rejected_at_5_percent``, by Stephens's modified statistic for a fitted normal
        distribution (1974), ``D (sqrt(n) - 0.01 + 0.85 / sqrt(n)) > 0.895``; ``qq``, the
        correlation of the Q-Q plot; ``points``, 19 pairs (normal quantile, log loss) of it.
    """
    logs = losses.double().clamp(min=1e-8).log().sort().values
    n, normal = len(logs), statistics.NormalDist()
    mu, sigma = logs.mean().item(), logs.std().item()
    z = torch.tensor([normal.inv_cdf((i + 0.5) / n) for i in range(n)], dtype=torch.float64)
    fitted = torch.tensor([normal.cdf((x - mu) / sigma) for x in logs.tolist()], dtype=logs.dtype)
    steps = torch.arange(n + 1, dtype=logs.dtype) / n
    ks = max((steps[1:] - fitted).max().item(), (fitted - steps[:-1]).max().item())
    qq = torch.corrcoef(torch.stack([z, logs]))[0, 1].item()
    places = [round(share * (n - 1) / 20) for share in range(1, 20)]
    return {
        "n": n,
        "mu": mu,
        "sigma": sigma,
        "ks": ks,
        "rejected_at_5_percent": ks * (math.sqrt(n) - 0.01 + 0.85 / math.sqrt(n)) > 0.895,
        "qq": qq,
        "points": [[round(z[i].item(), 4), round(logs[i].item(), 4)] for i in places],
    }
