"""HeTRoM again, where the first round's criteria failed: what was changed, and what came of it.

Each change was found with one more seed (10) on 300 validation tasks; no test task had a say.
What was seen there:

* Outliers (claim 1): neither random patterns nor tasks that cannot be learned at all do the mean
  much harm: 0.922 with half of the tasks bags of unrelated characters, 0.944 with none. Ranks
  (8, 16) gave 0.930, the oracle 0.925.
* Hard tasks (claim 2): the forms of four letters are few, and were learned by heart. With those
  of 13 letters, the mean gave 0.623, the hardest 12 of 16 0.634, the hardest 8 0.651.
* Clean tasks (claim 3): leaving out fewer, (2, 16), gave 0.940 where the mean gave 0.944, and
  guidance by clean losses, which leaves out 1 % of the tasks, 0.942.
* Guidance (claim 4): in the first round the losses of the training tasks, half of them noisy, were
  to say what is noisy. Losses of clean validation tasks say it: precision 0.98, and 0.916 with
  half of the support labels random. Leaving out easy tasks as well (z from -2 to 1) gave 0.875.
"""

from __future__ import annotations

import math

from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.hetrom.arms import (
    EASY_GRID,
    HETROM,
    RATES,
    SEEDS,
    Arm,
    N,
    fitting_arm,
    named,
    ranked,
    task_config,
    training_job,
)
from metalearn_tut.claims.hetrom.claims import PAIRED, SHARED, noisy
from metalearn_tut.claims.study import Claim, Job, Results, Study, Verdict

LETTERS = "aAuUDHLNSdkty"
BEST = {0.3: (8, 14), 0.5: (8, 16)}  # of the first round's grid, by its validation tasks
_CLEAN = {"data": {"name": "glyphs"}, "shots": 1, "queries": 5, "tasks": 16, "every": 5, "seed": 77}
GUIDED = {"name": "guided", "z_low": None, "z_high": 2, "clean": _CLEAN}


def all_jobs(quick: bool) -> list[Job]:
    """Every arm with every seed; quick: fewer steps, and one seed."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [training_job(arm, seed, quick) for seed in seeds for arm in _arms()]


def _arms() -> list[Arm]:
    mean, oracle = {"name": "mean"}, {"name": "oracle"}
    arms = named("clean", task_config("clean", 0.0), {"mean": mean, "sg": GUIDED})
    for rate in RATES:
        best = "range-{}-{}".format(*BEST[rate])
        labels = {"sg": GUIDED, best: ranked(*BEST[rate])}
        arms += named(f"labels-{rate}", task_config("labels", rate), labels)
        bags = {"mean": mean, "oracle": oracle, "sg": GUIDED}
        bags[fitting_arm(rate)] = ranked(*HETROM[rate])
        arms += named(f"bags-{rate}", task_config("bags", rate), bags)
    hard = {**task_config("easy", 0.1), "letters": LETTERS}
    tops = {f"top-{k}": ranked(0, k) for k in EASY_GRID}
    return [*arms, *named("easy", hard, {"mean": mean}), *named("easy", hard, tops, True)]


def outliers(results: Results) -> Verdict:
    """Claim 1."""
    gaps, values, parts = {}, {}, []
    for rate in RATES:
        at, arms = f"bags-{rate}", Arms(results)
        gaps[rate], values[at] = noisy(arms, at, fitting_arm(rate), ("oracle", "sg"))
        guided = arms.minus(f"{at}-sg", f"{at}-mean")
        parts.append(f"{rate:.0%} outliers: HeTRoM - mean {gaps[rate]}, sg - mean {guided}")
    holds = gaps[0.5].low > 0 and gaps[0.5].mean >= gaps[0.3].mean
    return Verdict(holds, "; ".join(parts) + ".", values)


def hard(results: Results) -> Verdict:
    """Claim 2."""
    arms = Arms(results)
    best, chosen = arms.best([f"easy-top-{k}" for k in EASY_GRID])
    gap, plain = (arms.minus(best, "easy-mean", split) for split in ("test", "easy"))
    values = {"validation": chosen, "best": best, "hard": gap.to_dict(), "easy": plain.to_dict()}
    values["mean"] = {split: arms.mean("easy-mean", split) for split in ("test", "easy")}
    sentence = f"hardest {best.split('-')[-1]} of {N} - mean: {gap} on hard tasks; {plain} on easy."
    return Verdict(gap.low > 0, sentence, values)


def clean(results: Results) -> Verdict:
    """Claim 3."""
    arms = Arms(results)
    gap = arms.minus("clean-sg", "clean-mean")
    values = {"sg - mean": gap.to_dict(), "mean": arms.mean("clean-mean")}
    return Verdict(gap.high >= 0, f"sg - mean: {gap}.", values)


def guidance(results: Results) -> Verdict:
    """Claim 4."""
    arms, values, parts, holds = Arms(results), {}, [], True
    for rate, best in BEST.items():
        name = "labels-{}-range-{}-{}".format(rate, *best)
        gap = arms.minus(f"labels-{rate}-sg", name)
        holds &= gap.high >= 0
        found = [v["rejection"]["precision"][-1] for v in arms.values(f"labels-{rate}-sg")]
        accuracy = {"sg": arms.mean(f"labels-{rate}-sg"), "best": arms.mean(name)}
        last = math.fsum(found) / len(found)
        values[str(rate)] = {"sg - best": gap.to_dict(), "accuracy": accuracy, "precision": last}
        parts.append(f"{rate:.0%} noisy: sg - {best} {gap}, precision at last {last:.2f}")
    return Verdict(holds, "; ".join(parts) + ".", values)


CLAIMS = (
    Claim(
        1,
        "With outlier tasks, HeTRoM has a higher accuracy on clean tasks than the mean objective, "
        "the more so the more there are.",
        "robustness to outliers is claimed in the abstract: FACT; that this is how it would show: "
        "RECONSTRUCTION",
        "As in the first round, with other outliers: a class is a bag of 20 unrelated training "
        f"characters, so that nothing can be learned. With half of them, {PAIRED}of HeTRoM (8, 16) "
        "- mean lies above 0, and the mean difference is no smaller than with 30 %, (5, 16)."
        + SHARED,
        outliers,
        follows=1,
    ),
    Claim(
        2,
        "With many easy tasks, leaving out the easiest raises the accuracy on hard ones.",
        "'prevents easy tasks from overwhelming the meta-learner' stands in the abstract: FACT; "
        "the experiment: RECONSTRUCTION",
        "As in the first round, with the forms of 13 letters instead of 4 as hard training tasks "
        f"({', '.join(LETTERS)}). {PAIRED.capitalize()}of (m, k) = (0, k) - mean lies above 0 on "
        "the same hard test tasks, for the best k of 4, 8, 12 on the validation tasks." + SHARED,
        hard,
        follows=2,
    ),
    Claim(
        3,
        "On clean, homogeneous tasks nothing is lost.",
        "RECONSTRUCTION",
        f"Trained on clean tasks, {PAIRED}of sg-HeTRoM - mean does not lie below 0 as a whole. Its "
        "upper threshold is two standard deviations above the mean logarithm of the losses of 16 "
        "validation tasks, taken every 5 steps; it has no lower one." + SHARED,
        clean,
        follows=3,
    ),
    Claim(
        4,
        "Statistical guidance, untuned, is at least as good as fixed ranks.",
        "that guidance replaces fixed ranks: SECOND-HAND; the rest: RECONSTRUCTION",
        "With random support labels in 30 % and in 50 % of the tasks alike, "
        f"{PAIRED}of sg-HeTRoM (as in claim 3, the same for both) - the best fixed ranks of the "
        "first round's grid, (8, 14) and (8, 16), does not lie below 0 as a whole." + SHARED,
        guidance,
        follows=4,
    ),
)

STUDY = Study(
    "hetrom_second",
    "Z. Si, S. Hu, K. Ji, S. Lyu, Meta-Learning with Heterogeneous Tasks, 2024, arXiv:2410.18894; "
    "a second round where the first one's criteria failed",
    CLAIMS,
    all_jobs,
)
