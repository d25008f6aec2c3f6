"""When is a claim decided? Differences over trainings, their intervals, and three verdicts.

The unit is the training: a seed is a start, an order of tasks and test tasks of its own, which two
arms share. SciPy would do, but is much to install for three formulas; the tests compare with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

KINDS = ("superior", "non-inferior", "equivalent")
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"


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

    Raises
    ------
    ValueError
        If either is out of range.

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


@dataclass(frozen=True)
class Effect:
    """How much better one arm is than another: a mean paired difference for each training.

    Parameters
    ----------
    seeds : tuple of float
        Of each seed, the mean difference of accuracy over its own test tasks.
    over_tasks : float
        Half-width of the 95 % interval over tasks: what other test tasks would change, for these
        trainings.
    n_tasks : int
        Test tasks of all seeds together.

    Examples
    --------
    >>> effect = Effect((0.01, 0.02, 0.03), over_tasks=0.002, n_tasks=1800)
    >>> print(effect)
    +0.0200 ± 0.0248 over 3 trainings; ± 0.0020 over 1,800 tasks
    >>> verdict(effect), verdict(effect, "non-inferior", margin=0.01)
    ('not decided', 'holds')
    """

    seeds: tuple[float, ...]
    over_tasks: float
    n_tasks: int

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.seeds)

    @cached_property
    def error(self) -> float:
        """Standard error of the mean over seeds."""
        return statistics.stdev(self.seeds) / math.sqrt(len(self.seeds))

    @property
    def over_seeds(self) -> float:
        """Half-width of the 95 % interval over trainings, by Student's t; of one seed, infinity."""
        n = len(self.seeds)
        return student_quantile(n - 1) * self.error if n > 1 else math.inf

    @property
    def low(self) -> float:
        """Lower end of the interval over trainings."""
        return self.mean - self.over_seeds

    @property
    def high(self) -> float:
        """Upper end of the interval over trainings."""
        return self.mean + self.over_seeds

    @property
    def detectable(self) -> float:
        """The smallest true difference that this design would have seen with 80 % power.

        ``(t_0.975 + t_0.8) · error`` with n - 1 degrees of freedom, which is 77 % with three seeds.
        """
        n = len(self.seeds)
        if n < 2:
            return math.inf
        return (student_quantile(n - 1) + student_quantile(n - 1, 0.8)) * self.error

    def __str__(self) -> str:
        return (
            f"{self.mean:+.4f} ± {self.over_seeds:.4f} over {len(self.seeds)} trainings; "
            f"± {self.over_tasks:.4f} over {self.n_tasks:,} tasks"
        )


def paired(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Effect:
    """The effect of ``a - b``, from the accuracies of each seed.

    Parameters
    ----------
    pairs : sequence of (sequence of float, sequence of float)
        For each seed, the accuracies of both arms on its test tasks.

    Raises
    ------
    ValueError
        If there is no seed, or two arms have not the same tasks.

    Examples
    --------
    >>> a, b, c = [0.8, 0.9, 1.0], [0.7, 0.8, 0.9], [0.6, 0.7, 0.8]
    >>> print(paired([(a, b), (a, c)]))
    +0.1500 ± 0.6353 over 2 trainings; ± 0.0000 over 6 tasks
    """
    if not pairs:
        raise ValueError("paired needs the accuracies of at least one seed, got none")
    means, variance, n_tasks = [], 0.0, 0
    for a, b in pairs:
        if len(a) != len(b) or len(a) < 2:
            raise ValueError(
                "paired needs two or more tasks, the same for both arms, "
                f"got {len(a)} and {len(b)} tasks"
            )
        gap = [x - y for x, y in zip(a, b, strict=True)]
        means.append(statistics.fmean(gap))
        variance += statistics.variance(gap) / len(gap)
        n_tasks += len(gap)
    return Effect(tuple(means), 1.96 * math.sqrt(variance) / len(pairs), n_tasks)


def verdict(effect: Effect, kind: str = "superior", margin: float = 0.0) -> str:
    """Whether a claim holds, by the 95 % interval over trainings.

    ================  ===================================  ================================
    kind              holds                                does not hold
    ================  ===================================  ================================
    ``superior``      the interval lies above the margin   it lies below the margin
    ``non-inferior``  it lies above minus the margin       it lies below minus the margin
    ``equivalent``    it lies between the two              it lies outside of both
    ================  ===================================  ================================

    Everything else is not decided. The last is two one-sided tests of 2.5 % each, so that one
    interval decides all three.

    Parameters
    ----------
    effect : Effect
        Of two or more seeds.
    kind : {"superior", "non-inferior", "equivalent"}
    margin : float, default 0
        Written down before the run; positive for the last two kinds.

    Returns
    -------
    str
        ``"holds"``, ``"does not hold"`` or ``"not decided"``.

    Raises
    ------
    ValueError
        For an unknown kind or a margin that makes no sense of it.
    """
    check_margin(kind, margin)
    if not math.isfinite(effect.over_seeds):
        return OPEN
    if kind == "equivalent":
        if -margin < effect.low and effect.high < margin:
            return HOLDS
        return FAILS if effect.low > margin or effect.high < -margin else OPEN
    bound = margin if kind == "superior" else -margin
    if effect.low > bound:
        return HOLDS
    return FAILS if effect.high < bound else OPEN


def check_margin(kind: str, margin: float) -> None:
    """Refuse an unknown kind of claim, and a margin that makes no sense of it."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not (0 <= margin < 1) or (kind != "superior" and margin == 0):
        raise ValueError(f"margin of a {kind} claim must be a share above 0, got {margin}")


def right_answers(right: Iterable[float], of: int) -> dict[str, object]:
    """Right answers of each task, of so many: short and exact in a file.

    Examples
    --------
    >>> right_answers([19, 20], of=20), accuracies({"right": "19 20", "of": 20})
    ({'right': '19 20', 'of': 20}, [0.95, 1.0])
    """
    return {"right": " ".join(str(int(n)) for n in right), "of": of}


def accuracies(kept: dict[str, object]) -> list[float]:
    """Back from :func:`right_answers`."""
    of = int(str(kept["of"]))
    return [int(n) / of for n in str(kept["right"]).split()]
