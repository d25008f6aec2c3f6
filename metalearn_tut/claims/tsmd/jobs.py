"""The jobs of the TSMD study: students that a teacher guides, and what that is worth."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut import runs
from metalearn_tut.bilevel import Params, functional, inner_loop, query_outputs
from metalearn_tut.bilevel.checks import prepared
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.claims.learners import (
    correct_by_split,
    network_cost,
    test_tasks,
    train,
    trained_learner,
)
from metalearn_tut.claims.statistics import correct_counts
from metalearn_tut.claims.study import Config
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.evaluation import cost
from metalearn_tut.learners.maml import MAML
from metalearn_tut.tasks.task import Task

# Learners that are taught


def taught(config: Config, folder: Path) -> dict[str, Any]:
    """Meta-train a student that a teacher guides, and test it.

    Returns
    -------
    dict
        Right answers of every task by split, and with a teacher that is trained too,
        ``"same_teacher"``: whether it ended bitwise as the one that was trained alone.
    """
    torch.manual_seed(config["seed"])
    student = runs.build_learner(config, config.get("device", "cpu"))
    teacher = trained_learner(config["teacher"], folder)
    pair = MetaDistiller(teacher, student, **config["distil"])
    train(pair, config, folder)
    values = correct_by_split(pair, config)
    if "same" in config:
        other = trained_learner(config["same"], folder).meta_parameters()
        ends = teacher.meta_parameters()
        values["same_teacher"] = all(torch.equal(ends[n], p) for n, p in other.items())
    return values


# Tests


def guided_test(config: Config, folder: Path) -> dict[str, Any]:
    """A student that was trained alone, guided when it is tested."""
    student, teacher = (trained_learner(config[name], folder) for name in ("student", "teacher"))
    pair = MetaDistiller(teacher, student, fixed_teacher=True, **config["distil"])
    return correct_by_split(pair, config)


def unlabeled(config: Config, folder: Path) -> dict[str, Any]:
    """A student trained alone that adapts to labels and to soft labels of more images.

    Each task has, of each class, its labeled images, ``extra`` others and ``queries`` to judge
    by. All students descend from the same start as often, on labels alone or on the mean of
    that loss and the distillation loss (temperature 1) on the extra images.

    Returns
    -------
    dict
        Right answers of every task: ``alone``; with the soft labels of the adapted teacher
        (``teacher``), of the adapted student itself (``own``), and with the ``true`` labels.
    """
    student, teacher = (trained_learner(config[name], folder) for name in ("student", "teacher"))
    wanted = config["test"]
    both = {**wanted, "queries": wanted["queries"] + wanted["extra"]}
    right: dict[str, list[Tensor]] = {}
    for task in test_tasks(config["data"], both).tasks(range(wanted["tasks"])):
        for name, values in _with_extra(student, teacher, task, wanted["extra"]).items():
            right.setdefault(name, []).append(values)
    return {
        n: correct_counts(torch.stack(found), 5 * wanted["queries"]) for n, found in right.items()
    }


def _with_extra(student: MAML, teacher: MAML, task: Task, n_extra: int) -> dict[str, Tensor]:
    """Accuracy on the images that are left, by whose labels the extra ones had."""
    known = student.adapt(task.support_x, task.support_y)
    x, y = prepared(task.support_x, task.support_y, known.params, "support_x")
    is_extra = torch.zeros(len(task.query_y), dtype=torch.bool)
    for c in range(5):
        is_extra[(task.query_y == c).nonzero()[:n_extra]] = True
    extra, labels = prepared(
        task.query_x[is_extra], task.query_y[is_extra], known.params, "query_x"
    )
    both, n = torch.cat([x, extra]), len(x)
    forward = functional(student.model)

    def outputs(params: Params, images: Tensor) -> Tensor:
        return query_outputs(forward, params, x, images, norm_of(student.model))

    def loss(soft: Tensor, params: Params) -> Tensor:
        logits = forward(params, both, n_support=n)
        return (F.cross_entropy(logits[:n], y) + kd_loss(logits[n:], soft, 1.0)) / 2

    with torch.no_grad():
        guides = {
            "teacher": teacher.adapt(task.support_x, task.support_y)(extra),
            "own": outputs(known.params, extra),
            "true": 100 * F.one_hot(labels, 5).to(x),
        }
    params, rates = student.start(student.meta_parameters(), 5)
    inner = student.inner_settings(student.inner_steps)
    options = {"steps": student.inner_steps, "lr": rates, "first_order": True, **inner}
    ends = {"alone": known.params}
    for name, soft in guides.items():
        ends[name] = inner_loop(partial(loss, soft), params, **options)
    judged, truth = prepared(
        task.query_x[~is_extra], task.query_y[~is_extra], known.params, "query_x"
    )
    with torch.no_grad():
        return {n: (outputs(p, judged).argmax(1) == truth).float().mean() for n, p in ends.items()}


def costs(config: Config, folder: Path) -> dict[str, Any]:
    """What is deployed costs, and what adapting costs, with a teacher and without."""
    student, teacher = (runs.build_learner(config[name]) for name in ("student", "teacher"))
    task = test_tasks(config["data"], config["test"])[0]
    shape = tuple(task.support_x.shape[1:])
    pair = MetaDistiller(teacher, student)
    networks = {
        "taught": pair.deploy(task),
        "student": student.adapt(task.support_x, task.support_y).deploy(),
        "teacher": teacher.adapt(task.support_x, task.support_y).deploy(),
    }
    values: dict[str, Any] = {
        name: network_cost(network, shape) for name, network in networks.items()
    }
    n = len(task.support_y)
    values["adaptation"] = pair.adaptation_macs(n, lambda network: cost.macs(network, shape))
    return values
