"""The jobs of the TSMD studies: students that a teacher guides, and teachers of several kinds."""

from __future__ import annotations

from pathlib import Path

from metalearn_tut.claims.classifier import begin_with, classifier
from metalearn_tut.claims.learners import answers_to, build, train, trained
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.learners.heads import head_of
from metalearn_tut.learners.maml import MAML


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
