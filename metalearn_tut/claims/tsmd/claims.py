"""TSMD: does a student learn a task better if a teacher learns it first and then guides it?

The student is MAML on Conv4-8, the teacher a Conv4-32, both with two inner steps from a head at
zero. The student is trained with its guidance. Since the teacher's training does not depend on the
student, the teacher of TSMD is meta-trained first (the longest head start there is), and stays as
it is; "fixed teacher" is our reading of that name: an ordinary classifier of all training classes,
whose start is not meta-learned, and which adapts to each task as well. Of the paper we know the
abstract, the order of the results and a summary.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.anp.claims import dense, ordinary
from metalearn_tut.claims.learners import conv4, train_and_test, two_steps
from metalearn_tut.claims.pilots import chosen
from metalearn_tut.claims.seeds import fresh
from metalearn_tut.claims.study import Claim, Comparison, Config, Job, Study
from metalearn_tut.claims.tasks import fresh_tasks
from metalearn_tut.claims.tsmd.jobs import taught, taught_alone, unlabeled

SEEDS, FEW = (0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2)
STEPS = {"emoji": 3000, "mini_imagenet": 4500, "mini_imagenet_84": 4500}
WIDTH, WIDTHS = 8, (4, 16)
RATES = {"0.002": 0.002, "0.004": 0.004, "0.008": 0.008}  # the student's outer rate
# Temperature and weight of the soft labels; the labels have the rest of the weight.
GUIDANCE = {"1-0.3": (1.0, 0.3), "2-0.1": (2.0, 0.1), "2-0.3": (2.0, 0.3)}
INNER = {"0.02": 0.02, "0.1": 0.1, "0.5": 0.5}  # the classifier's inner rate, five steps
KINDS = {  # of teachers: where it comes from, and what of it adapts
    "fixed": ("classifier", "all"),
    "tsmd": ("meta-trained", "all"),
    "head": ("meta-trained", "head"),
    "unadapted": ("meta-trained", "nothing"),
}
DECIDING = ("student", "fixed", "tsmd", "head")


def student(
    family: str, seed: int, width: int = WIDTH, quick: bool = False, **given: Any
) -> Config:
    """How the student of a seed is trained, alone or guided."""
    rate = given.get("rate") or chosen("tsmd", "student", RATES, "0.004")
    return {
        "model": conv4(width, family),
        "algorithm": two_steps(engine=given.get("engine", "functional")),
        "tasks": dense(family, seed)["tasks"],
        "training": {
            "steps": given.get("steps") or (20 if quick else STEPS[family]),
            "tasks_per_step": 4,
            "outer_lr": rate,
        },
        "seed": seed,
    }


def teacher(family: str, arm: str, seed: int, quick: bool, inner: float | None = None) -> Config:
    """The teacher of an arm."""
    kind, adapts = KINDS[arm]
    steps = 20 if quick else None
    learner = dense(family, seed, steps)
    if kind == "meta-trained":
        return {"kind": kind, "adapts": adapts, "learner": learner}
    rate = inner or chosen("tsmd", "teacher", INNER, "0.1")
    loop = {"name": "maml", "inner_lr": rate, "inner_steps": 5, "zero_head": True}
    learner = {"model": learner["model"], "algorithm": loop, "seed": seed}
    whole = ordinary(family, seed, steps=steps)
    return {"kind": kind, "adapts": adapts, "learner": learner, "ordinary": whole}


def job(study: str, family: str, arm: str, seed: int, quick: bool = False) -> Job:
    """An arm with one seed; ``ARM-widthW`` has a student of another width."""
    name, _, width = arm.partition("-width")
    tests = fresh_tasks(study, family, seed, quick=quick)
    wide = int(width or WIDTH)
    if name == "student":
        learner = student(family, seed, wide, quick, engine="vectorised")
        return Job(f"{arm}-{seed}", {"learner": learner, "tests": tests}, train_and_test)
    if name == "unlabeled":
        alone = student(family, seed, wide, quick, engine="vectorised")
        config = {"student": alone, "teacher": teacher(family, "tsmd", seed, quick), "extra": 2}
        return Job(f"{arm}-{seed}", {**config, "tests": {"test": tests["test"]}}, unlabeled)
    if name == "teacher":
        config = {"teacher": teacher(family, "tsmd", seed, quick), "tests": tests}
        return Job(f"{arm}-{seed}", config, taught_alone)
    guided = student(family, seed, wide, quick)
    config = guided_by(family, name, guided, seed, quick)
    return Job(f"{arm}-{seed}", {**config, "tests": tests}, taught)


def guided_by(
    family: str, arm: str, guided: Config, seed: int, quick: bool, point: str | None = None
) -> Config:
    """A student and its teacher."""
    pilot = "fixed" if arm == "fixed" else "tsmd"
    best = GUIDANCE[point] if point else chosen("tsmd", pilot, GUIDANCE, "2-0.3")
    distil = {"temperature": best[0], "kd_weight": best[1], "ce_weight": round(1 - best[1], 3)}
    return {
        "student": guided,
        "teacher": teacher(family, arm, seed, quick),
        "distil": {"fixed_teacher": True, **distil},
    }


def jobs(quick: bool) -> list[Job]:
    """On emoji: one seed after another, then what is reported beside the claims."""
    if quick:
        return [job("tsmd", "emoji", arm, 0, True) for arm in (*DECIDING, "unlabeled")]
    wider = [f"{arm}-width{w}" for w in WIDTHS for arm in ("student", "tsmd")]
    made = [job("tsmd", "emoji", arm, seed) for seed in SEEDS for arm in DECIDING]
    more = ("unadapted", "teacher", "unlabeled", *wider)
    return made + [job("tsmd", "emoji", arm, seed) for seed in FEW for arm in more]


def jobs_mini(quick: bool) -> list[Job]:
    """On mini-ImageNet: the headline alone."""
    seeds, arms = FEW[:1] if quick else FEW, ("student", "fixed", "tsmd")
    return [job("tsmd_mini", "mini_imagenet", arm, seed, quick) for seed in seeds for arm in arms]


def pilots() -> list[Job]:
    """A seed of its own, a third of the steps: three points for each arm.

    The student's outer rate, the fixed teacher's inner one, and the guidance by both teachers, each
    with the usual point of the others.
    """
    seed, steps = fresh("pilot", "tsmd", 0), STEPS["emoji"] // 3
    tests = {"validation": fresh_tasks("tsmd", "emoji", seed)["validation"]}
    made = []
    for point, rate in RATES.items():
        alone = student("emoji", seed, steps=steps, rate=rate, engine="vectorised")
        made.append(Job(f"student-{point}", {"learner": alone, "tests": tests}, train_and_test))
    for point, rate in INNER.items():
        whole = teacher("emoji", "fixed", seed, False, rate)
        made.append(Job(f"teacher-{point}", {"teacher": whole, "tests": tests}, taught_alone))
    for arm in ("fixed", "tsmd"):
        for point in GUIDANCE:
            guided = student("emoji", seed, steps=steps, rate=RATES["0.004"])
            config = guided_by("emoji", arm, guided, seed, False, point)
            if arm == "fixed":
                config["teacher"] = teacher("emoji", "fixed", seed, False, INNER["0.1"])
            made.append(Job(f"{arm}-{point}", {**config, "tests": tests}, taught))
    return made


_OURS = "networks, temperature and weights, two inner steps, the data; the teacher is trained first"
_CLAIMS = {
    "alone": Claim(
        "A student that an adapted teacher guides learns a task better than alone.",
        "tsmd",
        "student",
        source="SECOND-HAND (summary)",
        ours=_OURS,
    ),
    "fixed": Claim(
        "A meta-trained teacher guides better than a fixed one.",
        "tsmd",
        "fixed",
        source="SECOND-HAND (summary); what a fixed teacher is: RECONSTRUCTION",
        ours="the fixed teacher is an ordinary classifier that adapts, too; " + _OURS,
    ),
    "adapted": Claim(
        "It is the teacher's adaptation to the task that helps, not its features alone.",
        "tsmd",
        "head",
        source="the idea: FACT (abstract); this test of it: ours",
        ours="the rival is the same teacher, of which the head alone adapts; " + _OURS,
    ),
}
_REPORTED = (
    Comparison("two unlabeled images of a class, the teacher's labels - without them (ours)",
               "unlabeled", "unlabeled", "teacher", "alone"),
    Comparison("the same, the student's own labels - without them (ours)", "unlabeled",
               "unlabeled", "own", "alone"),
    Comparison("by the same teacher without any adaptation - alone", "unadapted", "student"),
    Comparison("the teacher itself - student that it guides", "teacher", "tsmd"),
    *(Comparison(f"width {w}: guided - alone", f"tsmd-width{w}", f"student-width{w}")
      for w in WIDTHS),
)  # fmt: skip
PAPER = (
    "Y. Wu, S. Chanda, M. Hosseinzadeh, Z. Liu, Y. Wang, Few-Shot Learning of Compact Models via "
    "Task-Specific Meta Distillation, WACV 2023, arXiv:2210.09922"
)
STUDIES: dict[str, Study] = {
    "tsmd": Study(
        "tsmd",
        PAPER,
        "emoji by artist, 5-way 1-shot",
        SEEDS,
        tuple(_CLAIMS.values()),
        jobs,
        hours=3.6,
        pilot="In a third of the steps: outer rates of 0.002, 0.004 and 0.008 for the student, "
        "inner rates of 0.02, 0.1 and 0.5 for the classifier as a teacher, and three pairs of "
        "temperature and weight for guidance by either teacher.",
        pilots=pilots,
        reported=_REPORTED,
        reported_seeds=FEW,
    ),
    "tsmd_mini": Study(
        "tsmd_mini",
        PAPER,
        "mini-ImageNet at 42×42, 5-way 1-shot",
        FEW,
        (_CLAIMS["alone"], _CLAIMS["fixed"]),
        jobs_mini,
        hours=1.9,
        pilot="Settings as on emoji.",
    ),
}
