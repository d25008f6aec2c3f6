"""The jobs of the TSMD studies: students that a teacher guides, and teachers of several kinds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.bilevel import Params, functional, inner_loop, query_outputs
from metalearn_tut.bilevel.checks import prepared
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.claims.classifier import begin_with, classifier
from metalearn_tut.claims.learners import answers_to, build, train, trained
from metalearn_tut.claims.statistics import right_answers
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.claims.tasks import WAYS, sampler
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.learners.heads import head_of
from metalearn_tut.learners.maml import MAML
from metalearn_tut.tasks.task import Task


def taught(config: Config, folder: Path) -> Values:
    """Meta-train a student that a teacher guides in every task, and test it.

    Parameters
    ----------
    config : dict
        ``student``, as for :func:`~metalearn_tut.claims.learners.trained`; ``teacher`` (see
        :func:`teacher`), whose ``steps`` may be 0: it does not adapt; ``distil``, other arguments
        of :class:`~metalearn_tut.distillation.MetaDistiller`; ``tests``.
    folder : Path
        Keeps checkpoints.
    """
    guide, student = teacher(config["teacher"], folder), build(config["student"])
    adapts = config["teacher"]["adapts"] != "nothing"
    options = {"fixed_teacher_inner_adapt": adapts, **config["distil"]}
    pair = MetaDistiller(guide, student, **options)
    train(pair, config["student"], folder / "training")
    return answers_to(pair, config["tests"])


def teacher(config: Config, folder: Path) -> MAML:
    """A teacher: ``"meta-trained"`` or an ordinary ``"classifier"``, by its ``kind``.

    ``learner`` is the configuration of the one, and of the other's network and inner loop, its
    weights being those of ``ordinary``. ``adapts`` is ``"all"``, its ``"head"``, or ``"nothing"``.
    """
    if config["kind"] == "meta-trained":
        made: MAML = trained(config["learner"], folder)
    else:
        made = build(config["learner"])
        begin_with(made.model, classifier(config["ordinary"], folder))
    if config["adapts"] == "head":
        made.groups = (tuple(head_of(made.model, "head")),)
    return made


def taught_alone(config: Config, folder: Path) -> Values:
    """What a teacher itself answers: what a student could hope for."""
    return answers_to(teacher(config["teacher"], folder), config["tests"])


# Other images of the task, without labels


def unlabeled(config: Config, folder: Path) -> Values:
    """A student that was trained alone adapts to labels, and to soft labels of more images.

    Of each class the first ``extra`` query images of a task have no labels, the others judge. All
    students descend as often from the same start, on labels alone or on the mean of that loss and
    the distillation loss (temperature 1) of the extra images.

    Returns
    -------
    dict
        Right answers: ``alone``; with the soft labels of the adapted teacher (``teacher``), or of
        the adapted student itself (``own``); with the ``true`` labels.
    """
    student, wanted = trained(config["student"], folder), config["tests"]["test"]
    guide, tasks = teacher(config["teacher"], folder), sampler(wanted)
    right: dict[str, list[float]] = {}
    for i in range(wanted["count"]):
        for name, n in with_extra(student, guide, tasks[i], config["extra"]).items():
            right.setdefault(name, []).append(n)
    queries = WAYS * (wanted["queries"] - config["extra"])
    return {name: right_answers(found, queries) for name, found in right.items()}


def with_extra(student: MAML, guide: MAML, task: Task, extra: int) -> dict[str, int]:
    """Right answers to the images that are left, by whose labels the extra ones had."""
    known = student.adapt(task.support_x, task.support_y)
    x, y = prepared(task.support_x, task.support_y, known.params, "support_x")
    is_extra = torch.zeros(len(task.query_y), dtype=torch.bool)
    for c in range(WAYS):
        is_extra[(task.query_y == c).nonzero()[:extra]] = True
    more, labels = prepared(task.query_x[is_extra], task.query_y[is_extra], known.params, "query_x")
    judged, truth = prepared(
        task.query_x[~is_extra], task.query_y[~is_extra], known.params, "query_x"
    )
    forward, both, n = functional(student.model), torch.cat([x, more]), len(x)

    def outputs(params: Params, images: Tensor) -> Tensor:
        return query_outputs(forward, params, x, images, norm_of(student.model))

    def loss(soft: Tensor, params: Params) -> Tensor:
        logits = forward(params, both, n_support=n)
        return (F.cross_entropy(logits[:n], y) + kd_loss(logits[n:], soft, 1.0)) / 2

    with torch.no_grad():
        soft = {
            "teacher": guide.adapt(task.support_x, task.support_y)(more),
            "own": outputs(known.params, more),
            "true": 100 * F.one_hot(labels, WAYS).to(x),
        }
    params, rates = student.start(student.meta_parameters(), WAYS)
    options = {"steps": student.inner_steps, "lr": rates, "first_order": True}
    options |= student.inner_settings(student.inner_steps)
    ends = {name: inner_loop(partial(loss, each), params, **options) for name, each in soft.items()}
    with torch.no_grad():
        return {
            name: int((outputs(end, judged).argmax(1) == truth).sum())
            for name, end in {"alone": known.params, **ends}.items()
        }
