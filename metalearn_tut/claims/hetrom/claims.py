"""HeTRoM: do ranks of the task losses protect meta-learning from noisy and from easy tasks?

The learner is cheap, and its inner loop steps the head alone, as the paper's does as far as we
know. What we know of the paper and how is said with each claim by the tags FACT (read in the
paper's abstract), SECOND-HAND (from a summary) and RECONSTRUCTION (our reading of it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.hetrom.arms import (
    EASY_GRID,
    GRID,
    KINDS,
    RATES,
    N,
    all_jobs,
    fitting_arm,
)
from metalearn_tut.claims.statistics import Difference
from metalearn_tut.claims.study import Claim, Results, Study, Verdict


def noise(results: Results) -> Verdict:
    """Claim 1."""
    values: dict[str, Any] = {}
    parts, holds = [], True
    for kind, words in KINDS.items():
        gaps = {}
        for rate in RATES:
            at = f"{kind}-{rate}"
            gaps[rate], values[at] = noisy(Arms(results), at, fitting_arm(rate))
            way = values[at]["share of mean -> oracle"]
            parts.append(f"{words}, {rate:.0%} noisy: HeTRoM - mean {gaps[rate]}")
            parts[-1] += "" if way is None else f", {way:.0%} of the way to the oracle"
        holds &= gaps[0.5].low > 0 and gaps[0.5].mean >= gaps[0.3].mean
    return Verdict(holds, "; ".join(parts) + ".", values)


def noisy(
    arms: Arms, at: str, hetrom: str, also: Sequence[str] = ("oracle", "max", "top")
) -> tuple[Difference, dict[str, Any]]:
    """HeTRoM - mean for one kind and rate of noise, and all that is reported of it."""
    others = arms.present([f"{at}-{arm}" for arm in also])
    named = {"hetrom": f"{at}-{hetrom}", **{name.rsplit("-", 1)[1]: name for name in others}}
    gaps = {arm: arms.minus(name, f"{at}-mean") for arm, name in named.items()}
    values: dict[str, Any] = {f"{arm} - mean": gap.to_dict() for arm, gap in gaps.items()}
    named = {"mean": f"{at}-mean", **named}
    values["accuracy"] = {arm: arms.mean(name) for arm, name in named.items()}
    oracle = gaps["oracle"].mean if "oracle" in gaps else 0.0
    way = gaps["hetrom"].mean / oracle if oracle else None
    return gaps["hetrom"], {**values, "share of mean -> oracle": way}


def easy(results: Results) -> Verdict:
    """Claim 2."""
    arms = Arms(results)
    best, chosen = arms.best(arms.present([f"easy-top-{k}" for k in EASY_GRID]))
    hard, plain = (arms.minus(best, "easy-mean", split) for split in ("test", "easy"))
    values: dict[str, Any] = {"validation": chosen, "hard": hard.to_dict(), "easy": plain.to_dict()}
    for split in ("test", "easy"):
        values |= {f"{arm}, {split}": arms.mean(arm, split) for arm in (best, "easy-mean")}
    sentence = (
        f"hardest {best.split('-')[-1]} of {N} - mean: {hard} on hard tasks; {plain} on easy."
    )
    return Verdict(hard.low > 0, sentence, values)


def clean(results: Results) -> Verdict:
    """Claim 3."""
    arms = Arms(results)
    others = arms.present([f"clean-{arm}" for arm in ("sg", "max", "top")])
    gap = arms.minus("clean-range-5-16", "clean-mean")
    same = results["same-bits"]["equal"]
    values = {"hetrom - mean": gap.to_dict(), "same bits": same}
    values |= {f"{arm} - mean": arms.minus(arm, "clean-mean").to_dict() for arm in others}
    values["mean"] = arms.mean("clean-mean")
    bits = "the same bits as" if same else "other bits than"
    sentence = f"HeTRoM (5, 16) - mean: {gap}; (0, n) gives {bits} the mean."
    return Verdict(gap.high >= 0 and same, sentence, values)


def guidance(results: Results) -> Verdict:
    """Claim 4."""
    arms = Arms(results)
    values: dict[str, Any] = {}
    parts, holds = [], True
    for rate in RATES:
        grid = [f"labels-{rate}-range-{m}-{k}" for m, k in GRID]
        best, chosen = arms.best(grid)
        gap = arms.minus(f"labels-{rate}-sg", best)
        holds &= gap.high >= 0
        fits = [v["fit"] for v in arms.values(f"labels-{rate}-sg")]
        values[str(rate)] = {"validation": chosen, "best": best, "sg - best": gap.to_dict()}
        parts.append(f"{rate:.0%} noisy: sg - ({', '.join(best.split('-')[-2:])}) {gap}")
        parts.append(_fit(fits))
    parts.append("clean: " + _fit([v["fit"] for v in arms.values("clean-sg")]))
    return Verdict(holds, "; ".join(parts) + ".", values)


def _fit(fits: Sequence[dict[str, Any]]) -> str:
    rejected = sum(fit["rejected_at_5_percent"] for fit in fits)
    ks, qq = (
        "-".join(f"{f([fit[n] for fit in fits]):.3f}" for f in (min, max)) for n in ("ks", "qq")
    )
    return (
        f"log-normal rejected for {rejected} of {len(fits)} seeds (KS {ks}, Q-Q correlation {qq})"
    )


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Of each place its mean over the rows."""
    return [math.fsum(place) / len(rows) for place in zip(*rows, strict=True)]


def cost(results: Results) -> Verdict:
    """Claim 5."""
    seconds = results["cost"]["seconds_per_step"]
    ratios = {arm: seconds[arm] / seconds["mean"] for arm in seconds}
    rates: dict[str, Any] = {}
    for kind in KINDS:
        for rate in RATES:
            arm = f"{kind}-{rate}-{fitting_arm(rate)}"
            found = [v["rejection"] for v in Arms(results).values(arm)]
            rates[arm] = {
                what: _means([f[what] for f in found]) for what in ("precision", "recall")
            }
    listed = ", ".join(f"{arm} {ratio:.2f}" for arm, ratio in ratios.items() if arm != "mean")
    last = "; ".join(
        f"{arm} {found['precision'][0]:.2f} -> {found['precision'][-1]:.2f}"
        for arm, found in rates.items()
    )
    sentence = f"time of a step over the mean's: {listed}; precision, first to last fourth: {last}."
    return Verdict(ratios["hetrom"] <= 1, sentence, {"ratios": ratios, "rejection": rates})


PAIRED = (
    "the paired interval over 600 clean test tasks (each task's difference being its mean over "
    "3 seeds; 95 %) "
)
SHARED = (
    " All arms see the same tasks in the same order, 16 a step for the same number of steps: the "
    "same number of task gradients, those of tasks left out counted. The interval over seeds is "
    "given too."
)
CLAIMS = (
    Claim(
        1,
        "With noisy or outlier tasks, HeTRoM has a higher accuracy on clean tasks than the mean "
        "objective, the more so the more there are.",
        "robustness to noise is claimed in the abstract: FACT; that this is how it would show: "
        "RECONSTRUCTION",
        f"With half of the training tasks noisy, {PAIRED}of HeTRoM - mean lies above 0, and the "
        "mean difference is no smaller than with 30 %; both for random support labels and for "
        "outlier tasks. HeTRoM leaves out as many of the hardest of 16 tasks as are noisy on "
        "average: (m, k) = (5, 16) and (8, 16). Maximum, average top 8 and oracle, and how much "
        "of the way from mean to oracle is closed, are reported." + SHARED,
        noise,
    ),
    Claim(
        2,
        "With many easy tasks, leaving out the easiest raises the accuracy on hard ones.",
        "'prevents easy tasks from overwhelming the meta-learner' stands in the abstract: FACT; "
        "the experiment: RECONSTRUCTION",
        "On average nine of ten training tasks are across scripts (easy), one is among the forms "
        f"of one of a, A, u, U (hard). {PAIRED.capitalize()}of (m, k) = (0, k) - mean lies above "
        "0 on tasks among the forms of e, E, o or O, for the best k of 4, 8, 12 on 300 validation "
        "tasks among the forms of i, n, r, R, s or h. No form of these ten letters is in any "
        "training task. (The forms of a letter are the characters whose canonical decomposition "
        "begins with it.)" + SHARED,
        easy,
    ),
    Claim(
        3,
        "On clean, homogeneous tasks nothing is lost.",
        "RECONSTRUCTION",
        f"Trained on clean tasks, {PAIRED}of HeTRoM (5, 16) - mean does not lie below 0 as a "
        "whole; and training with (0, 16) leaves the very bits that training with the mean does."
        + SHARED,
        clean,
    ),
    Claim(
        4,
        "Statistical guidance, untuned, is at least as good as fixed ranks; task losses are close "
        "to log-normal.",
        "that guidance replaces fixed ranks and rests on log-normal losses: SECOND-HAND; the rest: "
        "RECONSTRUCTION",
        "With random support labels in 30 % and in 50 % of the tasks alike, "
        f"{PAIRED}of sg-HeTRoM (default limits, z from -2 to 1) - the best of (5, 14), (5, 16), "
        "(8, 14), (8, 16), chosen on 300 validation tasks, does not lie below 0 as a whole. "
        "Whether the losses of 600 fresh training tasks are log-normal is tested "
        "(Kolmogorov-Smirnov at 5 %, for a fitted normal distribution of their logarithms) and "
        "reported as it is; it decides nothing here." + SHARED,
        guidance,
    ),
    Claim(
        5,
        "A step costs no more than with the mean, since tasks left out need no meta-gradient.",
        "RECONSTRUCTION",
        "The median time of a step with (8, 16) is at most that with the mean, in alternating "
        "rounds of one process. Precision and recall of the rejection of noisy tasks over "
        "training are reported.",
        cost,
    ),
)

STUDY = Study(
    "hetrom",
    "Z. Si, S. Hu, K. Ji, S. Lyu, Meta-Learning with Heterogeneous Tasks, 2024, arXiv:2410.18894",
    CLAIMS,
    all_jobs,
)
