"""The jobs of the study that compares: learners of several methods, tested and measured alike."""

from __future__ import annotations

import statistics
from pathlib import Path

from metalearn_tut import saliency
from metalearn_tut.claims.learners import answers_to, build, deployed_cost, train, trained
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.claims.tasks import TasksFrom, sampler
from metalearn_tut.claims.tsmd.jobs import teacher
from metalearn_tut.deployment import export_learner
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.gating.evaluation import Watched, is_gated
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.maml import MAML
from metalearn_tut.training.loop import meta_train

SCORING, LATER = 10**8, 10**6


def alone(config: Config, folder: Path) -> Values:
    """Meta-train a learner, test it and count what it deploys.

    ``config`` has ``learner`` (see :func:`~metalearn_tut.claims.learners.trained`) and ``tests``.
    """
    return measured(trained(config["learner"], folder), config, folder)


def taught(config: Config, folder: Path) -> Values:
    """The same of a student that a teacher guides, pruned at the end if there is a ``schedule``.

    ``config`` has ``student``, ``teacher`` and ``distil`` as
    :func:`~metalearn_tut.claims.tsmd.jobs.taught` has, ``retrain``, the arguments of training
    after a round, with its ``steps``, and ``criterion`` as for ANP.
    """
    guide, student = teacher(config["teacher"], folder), build(config["student"])
    pair = MetaDistiller(guide, student, **config["distil"])
    train(pair, config["student"], folder / "training")
    if "schedule" not in config:
        return measured(pair, config, folder)
    tasks = sampler(config["student"]["tasks"])
    retraining = dict(config["retrain"])
    steps = retraining.pop("steps")

    def retrain(_: MAML, number: int) -> None:
        options = {"out": folder / f"round-{number}", "resume": True, "progress": False}
        later = TasksFrom(tasks, LATER * number)
        meta_train(pair, later, steps=steps[number - 1], **retraining, **options)

    rounds = saliency.Rounds(config["schedule"], retrain)
    criterion = saliency.Criterion(**config["criterion"])
    options = {"out": folder / "rounds", "resume": True, "progress": False}
    saliency.anp_prune(student, TasksFrom(tasks, SCORING), rounds, criterion, **options)
    return measured(pair, config, folder)


def measured(learner: Learner, config: Config, folder: Path) -> Values:
    """Right answers by split, and the ``cost`` of the network that is deployed for a task.

    The multiply-adds of a gated network are the mean over all test images. ``learner_bytes`` is the
    size of ``learner.onnx`` in ``folder``, the file that learns: of a student without its teacher.
    """
    watched = Watched(learner) if is_gated(learner) else learner
    values = answers_to(watched, config["tests"])
    values["cost"] = deployed_cost(learner, config["tests"]["test"])
    if isinstance(watched, Watched):
        values["cost"]["macs"] *= statistics.fmean(watched.shares)
    shape = sampler(config["tests"]["test"])[0].support_x.shape[1:]
    file = folder / "learner.onnx"
    export_learner(getattr(learner, "student", learner), file, shape)
    values["cost"]["learner_bytes"] = file.stat().st_size
    return values
