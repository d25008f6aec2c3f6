"""Which arms the TSMD study has.

For each number of shots and seed a teacher is meta-trained for a while. The paper's Fixed Teacher
is that one, as it is; TSMD trains it on together with the student; the Oracle is the same teacher
trained on alone, and it then also guides students of its own, from their first step.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.arms import SEEDS
from metalearn_tut.claims.learners import CONV4, first_tasks, train_and_test
from metalearn_tut.claims.study import Config, Job
from metalearn_tut.claims.tsmd import jobs as tsmd_jobs

SHOTS = (1, 5)
STEPS = {1: 300, 5: 140}  # of every student, and of the teacher beside it
START = {1: 200, 5: 80}  # of the teacher before
NARROW, TEMPERATURES, WEIGHTS = 4, (4.0, 10.0), (0.2, 0.8)
EXTRA = {1: 9, 5: 5}  # unlabeled images of a class: there are 20 in all
CHOSEN = {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}
RECONSTRUCTED = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 1.0}

_RATES = {"name": "maml", "rate_mode": "per_layer_and_step", "zero_head": True}
STUDENT: Config = {
    "model": {**CONV4, "width": 8},
    "algorithm": {**_RATES, "inner_lr": 0.1, "inner_steps": 5},
}
TEACHER: Config = {
    "model": {**CONV4, "width": 40},
    "algorithm": {**_RATES, "inner_lr": 0.1, "inner_steps": 3, "first_order": True},
}
# Arm -> which teacher ("start" or "oracle") and how it guides.
GUIDED: dict[str, tuple[str, Config]] = {
    "fixed": ("start", {**CHOSEN, "fixed_teacher": True}),
    "tsmd": ("start", CHOSEN),
    "taught_by_oracle": ("oracle", {**CHOSEN, "fixed_teacher": True}),
    "unadapted": (
        "oracle",
        {**CHOSEN, "fixed_teacher": True, "fixed_teacher_inner_adapt": False},
    ),
    "reconstructed": ("oracle", {**RECONSTRUCTED, "fixed_teacher": True}),
    "rkd": ("oracle", {"kd_weight": 0.0, "rkd_weight": 0.002, "fixed_teacher": True}),
}
ONE_SHOT = ("taught_by_oracle", "unadapted", "reconstructed", "rkd")  # run with one shot only


def all_jobs(quick: bool) -> list[Job]:
    """Teachers first, one seed after another, then what they teach; quick: one seed, one shot."""
    seeds, shots = (SEEDS[:1], SHOTS[:1]) if quick else (SEEDS, SHOTS)
    found = [Job("costs", _costs(quick), tsmd_jobs.costs)]
    for seed in seeds:
        for n in shots:
            found += [*_ladder(n, seed, quick), *_tests(n, seed, quick)]
    for seed in seeds:
        found += _narrow(seed, quick)
    return found + _settings(quick)


def _learner(name: str, made: Config, shots: int, seed: int, steps: int, quick: bool) -> Config:
    return {
        "name": f"{name}_{shots}-{seed}",
        **made,
        "data": {"shots": shots, "queries": 5},
        "training": {"steps": 12 if quick else steps, "tasks_per_step": 4, "outer_lr": 0.003},
        "test": {"test": first_tasks(30 if quick else 600)},
        "seed": seed,
    }


def _start(shots: int, seed: int, quick: bool) -> Config:
    return _learner("start", TEACHER, shots, seed, START[shots], quick)


def _oracle(shots: int, seed: int, quick: bool) -> Config:
    whole = _learner("oracle", TEACHER, shots, seed, STEPS[shots], quick)
    return {**whole, "start": _start(shots, seed, quick)}


def _student(shots: int, seed: int, quick: bool, width: int = 8, steps: int = 5) -> Config:
    made = {
        "model": {**STUDENT["model"], "width": width},
        "algorithm": {**STUDENT["algorithm"], "inner_steps": steps},
    }
    name = "student" + ("" if width == 8 else f"_width{width}") + ("" if steps == 5 else "_longer")
    return _learner(name, made, shots, seed, STEPS[shots], quick)


def _taught(
    name: str, arm: str, shots: int, seed: int, quick: bool, width: int = 8, **other: Any
) -> Job:
    which, distil = GUIDED[arm]
    teacher = (_start if which == "start" else _oracle)(shots, seed, quick)
    config = {
        **_student(shots, seed, quick, width),
        "name": f"{name}_{shots}-{seed}",
        "teacher": teacher,
        "distil": {**distil, **other},
    }
    if arm == "tsmd":
        config["same"] = _oracle(shots, seed, quick)
    return Job(config["name"], config, tsmd_jobs.taught)


def _ladder(shots: int, seed: int, quick: bool) -> list[Job]:
    """Teachers, the student alone, and the students that are taught."""
    learners = [make(shots, seed, quick) for make in (_start, _oracle, _student)]
    if shots == 1:
        learners.append(_student(shots, seed, quick, steps=10))
    arms = [arm for arm in GUIDED if shots == 1 or arm not in ONE_SHOT]
    return [
        *[Job(config["name"], config, train_and_test) for config in learners],
        *[_taught(arm, arm, shots, seed, quick) for arm in arms],
    ]


def _tests(shots: int, seed: int, quick: bool) -> list[Job]:
    """What the student alone becomes with a teacher at test time only, and with more images."""
    pair = {
        "student": _student(shots, seed, quick),
        "teacher": _oracle(shots, seed, quick),
        "data": {"shots": shots},
    }
    few = first_tasks(30 if quick else 600)
    guided = {**pair, "distil": CHOSEN, "test": {"test": few}}
    tasks = few["tasks"] if shots == 1 else 200  # those of one shot decide
    more = {**pair, "test": {**few, "tasks": tasks, "extra": EXTRA[shots]}}
    found = [Job(f"unlabeled_{shots}-{seed}", more, tsmd_jobs.unlabeled)]
    if shots == 1:
        found.append(Job(f"test_only_{shots}-{seed}", guided, tsmd_jobs.guided_test))
    return found


def _narrow(seed: int, quick: bool) -> list[Job]:
    """A smaller student with one shot, alone and taught."""
    config = _student(1, seed, quick, NARROW)
    name = f"taught_by_oracle_width{NARROW}"
    taught = _taught(name, "taught_by_oracle", 1, seed, quick, NARROW)
    return [Job(config["name"], config, train_and_test), taught]


def _settings(quick: bool) -> list[Job]:
    """Temperature and weight, one at a time, with the first seed."""
    arm = "taught_by_oracle"
    found = [
        _taught(f"temperature{t:g}", arm, 1, SEEDS[0], quick, temperature=t, kd_weight=0.5 / t)
        for t in TEMPERATURES
    ]
    return found + [
        _taught(f"weight{w:g}", arm, 1, SEEDS[0], quick, kd_weight=w, ce_weight=1 - w)
        for w in WEIGHTS
    ]


def _costs(quick: bool) -> Config:
    return {
        "student": STUDENT,
        "teacher": TEACHER,
        "data": {"shots": 1},
        "test": first_tasks(30 if quick else 1),  # the first is counted
    }
