"""TSMD: does a student that an adapted teacher guides learn a new task better than one alone?

All learners are MAML with learned inner rates (every arm has the step sizes that suit it), a
head that starts at zero and batch norms with the support set's statistics. The student is a Conv4-8
with second-order meta-gradients, the teacher a Conv4-40 (23 times the parameters) of first order.

Settings come from validation tasks (one seed, 300 tasks, students of a few hundred steps, a fully
trained fixed teacher), where none was found in which guidance on the support set helps. One shot,
two inner steps: 0.863 alone; guided at temperature 1 with the step's length kept (weights 0.5 and
0.5) 0.859, at temperature 4 0.811, by a teacher of one short step 0.846, by relations of features
(weight 0.02) 0.800. Three: 0.828 alone, 0.832 by relations at 0.002, 0.822 with soft labels in the
outer loss. Five, 300 steps: 0.891 and 0.872; with fixed rates and 500 steps, 0.905 and 0.902.
With five shots 0.920 and 0.899 (temperature 4); with classes of one script 0.801 and 0.799.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.statistics import PAIRED, Difference, difference
from metalearn_tut.claims.study import Claim, Results, Study, Verdict
from metalearn_tut.claims.tsmd.arms import (
    NARROW,
    SEEDS,
    SHOTS,
    TEMPERATURES,
    WEIGHTS,
    all_jobs,
)


def _shots(arms: Arms) -> list[int]:
    """Five shots are not in a quick run."""
    return [n for n in SHOTS if arms.present([f"student_{n}"])] or [SHOTS[0]]


def _gaps(arms: Arms, pairs: list[tuple[str, str]], shots: int) -> dict[str, Difference]:
    return {f"{a} - {b}": arms.minus(f"{a}_{shots}", f"{b}_{shots}") for a, b in pairs}


def _listed(gaps: dict[str, Difference]) -> str:
    return ", ".join(f"{pair.replace('_', ' ')} {gap}" for pair, gap in gaps.items())


def ordering(results: Results) -> Verdict:
    """Claim 1."""
    arms, parts, holds = Arms(results), [], True
    values: dict[str, Any] = {}
    rungs = ("student", "fixed", "tsmd", "oracle")
    others = [("taught_by_oracle", "student"), ("reconstructed", "student"), ("tsmd", "student")]
    for shots in _shots(arms):
        gaps = _gaps(arms, list(zip(rungs[1:], rungs, strict=False)), shots)
        more = [(a, b) for a, b in others if arms.present([f"{a}_{shots}"])]
        reported = _gaps(arms, more, shots)
        same = [v["same_teacher"] for v in arms.values(f"tsmd_{shots}")]
        values[f"{shots}-shot"] = {
            "accuracy": {arm: arms.mean(f"{arm}_{shots}") for arm in ("start", *rungs)},
            "same_teacher": same,
            **{pair: gap.to_dict() for pair, gap in {**gaps, **reported}.items()},
        }
        holds &= all(gap.low > 0 for gap in gaps.values())
        parts.append(f"{shots}-shot: {_listed(gaps)}; beside them {_listed(reported)}")
    return Verdict(holds, f"{'. '.join(parts)}.", values)


def adapted(results: Results) -> Verdict:
    """Claim 2."""
    arms = Arms(results)
    gaps = _gaps(arms, [("taught_by_oracle", "unadapted"), ("taught_by_oracle", "test_only")], 1)
    reported = _gaps(arms, [("unadapted", "student"), ("test_only", "student")], 1)
    values = {pair: gap.to_dict() for pair, gap in {**gaps, **reported}.items()}
    holds = all(gap.low > 0 for gap in gaps.values())
    return Verdict(holds, f"1-shot: {_listed(gaps)}; beside them {_listed(reported)}.", values)


def inference(results: Results) -> Verdict:
    """Claim 3."""
    found = results["costs"]
    holds = found["taught"] == found["student"]
    ratio = {n: found["teacher"][n] / found["student"][n] for n in found["student"]}
    work = found["adaptation"]
    whole = (work["teacher"] + work["student"]) / work["student"]
    sentence = (
        f"Deployed: {found['taught']['parameters']:,} parameters, {found['taught']['macs']:,} "
        f"multiply-adds, {found['taught']['bytes']:,} bytes, with and without a teacher (which has "
        f"{ratio['parameters']:.0f} times as many parameters and {ratio['macs']:.0f} times the "
        f"multiply-adds). Adaptation costs {whole:.1f} times that of the student alone."
    )
    return Verdict(holds, sentence, {**found, "ratio": ratio, "adaptation_ratio": whole})


def sweeps(results: Results) -> Verdict:
    """Claim 4."""
    arms = Arms(results)
    values: dict[str, Any] = {}
    gains = {}
    for width, end in ((NARROW, f"_width{NARROW}_1"), (8, "_1")):
        taught, alone = f"taught_by_oracle{end}", f"student{end}"
        gap = arms.minus(taught, alone)
        values[f"width {width}"] = {"alone": arms.mean(alone), "gain": gap.to_dict()}
        gains[width] = gap, arms.accuracy(taught) - arms.accuracy(alone)
    more = difference(gains[NARROW][1], gains[8][1])
    values["gain at the smaller - at the larger"] = more.to_dict()
    settings = [f"temperature{t:g}" for t in TEMPERATURES] + [f"weight{w:g}" for w in WEIGHTS]
    first = Arms(results, SEEDS[:1])
    for name in settings:
        values[name] = first.minus(f"{name}_1", "student_1").to_dict()
    rkd = arms.minus("rkd_1", "student_1")
    values["rkd - student"] = rkd.to_dict()
    values["rkd - taught_by_oracle"] = arms.minus("rkd_1", "taught_by_oracle_1").to_dict()
    listed = ", ".join(f"at width {width} {gap}" for width, (gap, _) in gains.items())
    swept = ", ".join(f"{name} {values[name]['mean']:+.4f}" for name in settings)
    sentence = (
        f"Gain by guidance {listed}; the one less the other {more}. First seed, less the student "
        f"alone: {swept}. Relations of features instead of soft labels, less the student alone: "
        f"{rkd}."
    )
    return Verdict(gains[NARROW][0].low > 0 and more.low > 0, sentence, values)


def longer(results: Results) -> Verdict:
    """Claim 5."""
    arms = Arms(results)
    pairs = [("tsmd", "student_longer"), ("taught_by_oracle", "student_longer")]
    gaps = _gaps(arms, pairs, 1)
    reported = _gaps(arms, [("student_longer", "student")], 1)
    values = {pair: gap.to_dict() for pair, gap in {**gaps, **reported}.items()}
    holds = all(gap.low > 0 for gap in gaps.values())
    return Verdict(holds, f"1-shot: {_listed({**gaps, **reported})}.", values)


def more_images(results: Results) -> Verdict:
    """Claim 6."""
    arms, parts, holds = Arms(results), [], True
    values: dict[str, Any] = {}
    for shots in _shots(arms):
        arm = f"unlabeled_{shots}"
        gaps = {
            f"{a} - {b}": arms.minus(arm, arm, a, of_b=b)
            for a, b in (("teacher", "alone"), ("teacher", "own"), ("true", "teacher"))
        }
        values[f"{shots}-shot"] = {
            "accuracy": {way: arms.mean(arm, way) for way in ("alone", "teacher", "own", "true")},
            **{pair: gap.to_dict() for pair, gap in gaps.items()},
        }
        if shots == 1:
            holds = gaps["teacher - alone"].low > 0 and gaps["teacher - own"].low > 0
        parts.append(f"{shots}-shot: {_listed(gaps)}")
    return Verdict(holds, f"{'. '.join(parts)}.", values)


_SHARED = (
    " 5-way glyphs; students and teachers of a number of shots have the same tasks and as many "
    "outer steps; temperature 1 and weights 0.5 and 0.5 where nothing is said. The interval over "
    "seeds is given too."
)
CLAIMS = (
    Claim(
        1,
        "Student < Fixed Teacher < TSMD < Oracle, with one and with five shots.",
        "TSMD above Fixed Teacher and Student, Oracle far above Student: SECOND-HAND; the whole "
        "ordering, and that the fixed teacher is the one that TSMD begins with: RECONSTRUCTION",
        "With one shot and with five, "
        + PAIRED
        + "lies above 0 for each neighboring pair. Beside them are reported: a student guided from "
        "its first step by the fully trained teacher, and one with the temperature 4 and weight 1 "
        "of public distillation code." + _SHARED,
        ordering,
    ),
    Claim(
        2,
        "It is the task-specific adaptation of the teacher, in meta-training, that helps.",
        "the idea: FACT (abstract); that it shows in these two comparisons: RECONSTRUCTION",
        "One shot: "
        + PAIRED
        + "of a student guided by the adapted, fully trained teacher lies above 0 less one guided "
        "by the same teacher before it adapts, and less one trained alone and guided at test time "
        "only." + _SHARED,
        adapted,
    ),
    Claim(
        3,
        "Inference costs what the student costs.",
        "only the student is deployed: FACT (abstract); the count: derived",
        "Parameters, multiply-adds and bytes of the network deployed with a teacher's guidance are "
        "equal to those without. What adaptation costs is reported.",
        inference,
    ),
    Claim(
        4,
        "The smaller the student, the more guidance matters.",
        "ours; temperature, weight and relations of features are reported beside it",
        "One shot: "
        + PAIRED
        + "of the gain by the fully trained teacher's guidance lies above 0 at width 4, and so "
        "does the gain at width 4 less the gain at width 8." + _SHARED,
        sweeps,
    ),
    Claim(
        5,
        "The teacher is a better use of computation than more inner steps.",
        "ours",
        "One shot: "
        + PAIRED
        + "of TSMD, and of the student guided by the fully trained teacher, each less a student "
        "meta-trained alone with ten inner steps instead of five, lies above 0. (Ten steps of the "
        "student cost less than its five and the teacher's three.)" + _SHARED,
        longer,
    ),
    Claim(
        6,
        "Of other images of the task, without labels, the adapted teacher has something to say.",
        "ours, found in chapter 6 on 60 test tasks with the learners that come with the package",
        "One shot, nine unlabeled images of each class, students trained alone: "
        + PAIRED
        + "of adapting with the fully trained teacher's soft labels of these images lies above 0 "
        "less adapting without them, and less adapting with the student's own. Five shots, with "
        "five such images and 200 tasks, are reported." + _SHARED,
        more_images,
    ),
)

STUDY = Study(
    "tsmd",
    "Y. Wu, S. Chanda, M. Hosseinzadeh, Z. Liu, Y. Wang, Few-Shot Learning of Compact Models via "
    "Task-Specific Meta Distillation, WACV 2023, arXiv:2210.09922",
    CLAIMS,
    all_jobs,
)
