"""What a study's numbers may claim: paired differences over tasks and seeds, and a fit's distance.

SciPy would do, but is much to install for three formulas; the tests compare with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.evaluation.intervals import interval

# As criteria put it: part of what is on file, so not a word of it changes.
PAIRED = (
    "the paired interval over 600 test tasks (each task's difference being its mean over 3 seeds; "
    "95 %) "
)

# Seeds


def student_quantile(degrees: int, probability: float = 0.975) -> float:
    """The point that Student's t with so many degrees of freedom does not exceed so often.

    By bisection of the closed form for whole degrees (Abramowitz and Stegun, *Handbook of
    Mathematical Functions*, 26.7.3 and 26.7.4).

    Parameters
    ----------
    degrees : int
        At least 1.
    probability : float, default 0.975
        Above 0.5 and below 1.

    Examples
    --------
    >>> round(student_quantile(1), 3), round(student_quantile(11), 3)
    (12.706, 2.201)
    """
    if degrees < 1 or not 0.5 < probability < 1:
        raise ValueError(
            "student_quantile needs degrees >= 1 and 0.5 < probability < 1, "
            f"got degrees={degrees}, probability={probability}"
        )
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        inside = _student_inside(middle, degrees) < 2 * probability - 1
        low, high = (middle, high) if inside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _student_inside(angle: float, degrees: int) -> float:
    """Probability of ``|t| <= sqrt(degrees) tan(angle)``."""
    odd = degrees % 2
    term, total = math.cos(angle) ** odd, 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def interval_over_seeds(means: Sequence[float]) -> tuple[float, float]:
    """Mean over two or more seeds, and the half-width of its 95 % interval by Student's t.

    Its point has three decimals, as tables print it: results on file were made with those.

    Examples
    --------
    >>> mean, half = interval_over_seeds([0.1, 0.2, 0.3])
    >>> round(mean, 3), round(half, 3)
    (0.2, 0.248)
    """
    if len(means) < 2:
        raise ValueError(f"means must be of at least 2 seeds, got {len(means)}")
    values = torch.tensor(means, dtype=torch.float64)
    point = round(student_quantile(len(means) - 1), 3)
    return values.mean().item(), point * values.std().item() / math.sqrt(len(means))


# Two arms


@dataclass(frozen=True)
class Difference:
    """How much better one arm is than another, on paired tasks.

    Parameters
    ----------
    mean : float
        Mean over tasks and seeds.
    over_tasks : float
        Half-width of the 95 % interval over tasks, each task's difference being its mean over
        the seeds: what other tasks would change, for these trainings.
    over_seeds : float or None
        Half-width of the 95 % interval over seeds (Student's t): what other trainings would
        change, for these tasks. None for one seed.
    seeds : list of float
        The mean of each seed.
    n_tasks : int
        Number of tasks.
    of : str, default "tasks"
        What they are, if not tasks.
    """

    mean: float
    over_tasks: float
    over_seeds: float | None
    seeds: list[float]
    n_tasks: int
    of: str = "tasks"

    @property
    def low(self) -> float:
        """Lower end of the interval over tasks."""
        return self.mean - self.over_tasks

    @property
    def high(self) -> float:
        """Upper end of the interval over tasks."""
        return self.mean + self.over_tasks

    def __str__(self) -> str:
        seeds = "" if self.over_seeds is None else f"; ± {self.over_seeds:.4f} over seeds"
        return f"{self.mean:+.4f} ± {self.over_tasks:.4f} over {self.n_tasks} {self.of}{seeds}"

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {name: value for name, value in asdict(self).items() if name != "of"}


def difference(a: Tensor, b: Tensor, of: str = "tasks") -> Difference:
    """The :class:`Difference` ``a - b`` of two arms.

    Parameters
    ----------
    a, b : Tensor [S, n]
        Accuracies on the same n tasks after training with each of the same S seeds.
    of : str, default "tasks"
        What they are of, if not of tasks.

    Examples
    --------
    >>> a = torch.tensor([[0.8, 0.9, 1.0], [0.9, 0.9, 0.9]])
    >>> print(difference(a, a - 0.1))
    +0.1000 ± 0.0000 over 3 tasks; ± 0.0000 over seeds
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            "difference needs accuracies [seeds, tasks] of the same seeds and tasks on both "
            f"sides, got shapes {list(a.shape)} and {list(b.shape)}"
        )
    paired = a.double() - b.double()
    mean, over_tasks = interval(paired.mean(0))
    seeds = paired.mean(1).tolist()
    over_seeds = interval_over_seeds(seeds)[1] if len(seeds) > 1 else None
    return Difference(mean, over_tasks, over_seeds, seeds, len(paired[0]), of)


def correct_counts(accuracy: Tensor, queries: int) -> str:
    """How many of ``queries`` were right in each task: short and exact in a results file.

    Examples
    --------
    >>> correct_counts(torch.tensor([0.96, 0.5]), queries=50), accuracies("48 25", queries=50)
    ('48 25', tensor([0.9600, 0.5000], dtype=torch.float64))
    """
    return " ".join(str(round(a * queries)) for a in accuracy.tolist())


def accuracies(text: str, queries: int) -> Tensor:
    """Back from :func:`correct_counts`, in double precision ``[n]``."""
    return torch.tensor([int(c) for c in text.split()], dtype=torch.float64) / queries


# Losses


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
