"""The jobs of the HeTRoM studies: one learner, trained on mixed tasks by one aggregate or another.

A kind of training tasks is ``"clean"``; ``"labels"``, some tasks having random support labels;
``"flip"``, every task having some wrong ones; ``"rand"``, every task a share of its own, between
none and all; or ``"mixed"``, few of the tasks being hard: five classes of one subgroup.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import rank_losses, tasks
from metalearn_tut.checks import check_index
from metalearn_tut.claims.learners import answers_to, build
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.claims.tasks import WAYS, sampler
from metalearn_tut.tasks import TaskSampler
from metalearn_tut.tasks.sampler import raw_draws, unit
from metalearn_tut.tasks.task import Task
from metalearn_tut.training.loop import meta_train

_NOISE = 77  # stream of draws


def training(config: Config, folder: Path) -> Values:
    """Train one arm with one seed, and test it on clean tasks.

    Parameters
    ----------
    config : dict
        ``learner`` (see :func:`~metalearn_tut.claims.learners.trained`), whose ``tasks`` have
        a ``kind`` and a ``rate``; ``aggregate`` (see :func:`aggregate`); ``tests``.
    folder : Path
        Keeps checkpoints.
    """
    learner = build(config["learner"])
    mixed = training_tasks(config["learner"]["tasks"])
    if "pool" in config["aggregate"]:  # whose weights are of tasks that come again
        mixed = tasks.Pool(mixed, config["aggregate"]["pool"])
    options = {"out": folder / "training", "resume": True, "progress": False}
    options |= config["learner"]["training"]
    meta_train(learner, mixed, aggregate=aggregate(config["aggregate"], mixed), **options)
    return answers_to(learner, config["tests"])


def training_tasks(wanted: Config) -> TaskSampler:
    """Training tasks of a ``kind``, with its ``rate``."""
    clean, kind, rate, seed = sampler(wanted), wanted["kind"], wanted["rate"], wanted["seed"]
    if kind == "labels":
        return tasks.NoisyTasks(clean, rate, kind="random", seed=seed)
    if kind in ("flip", "rand"):
        return WrongLabels(clean, rate if kind == "flip" else None, seed)
    if kind == "mixed":
        hard = sampler({**wanted, "within_group": True})
        return tasks.Mixture([clean, hard], [1 - rate, rate], seed)
    return clean


def aggregate(config: Config, sampler: TaskSampler) -> Any:
    """What becomes of a step's losses.

    By ``name``: ``"mean"``; ``"range"``, the mean of the ranks m + 1 to k; ``"guided"``, by a
    log-normal model of the losses; ``"mixture"``, that of TR-MAML on a ``pool`` of tasks;
    ``"oracle"``, the mean of the clean ones.
    """
    if config["name"] == "range":
        return rank_losses.RankedRange(config["m"], config["k"])
    if config["name"] == "guided":
        return rank_losses.LogNormalGuidance(config["z_low"], config["z_high"])
    if config["name"] == "mixture":
        return rank_losses.WorstMixture(config["pool"], config["rate"])
    if config["name"] == "oracle":
        return rank_losses.Oracle(lambda i: sampler[i].tags["noisy"])
    return torch.mean


class WrongLabels(TaskSampler):
    """Each support label is wrong with a probability: another of the task's labels.

    Parameters
    ----------
    sampler : TaskSampler
        Where tasks come from.
    rate : float or None
        The probability; None draws one for each task, evenly between 0 and 1.
    seed : int
        Names the choice.
    """

    decided_by = ("sampler", "rate", "seed")

    def __init__(self, sampler: TaskSampler, rate: float | None, seed: int) -> None:
        self.sampler, self.rate, self.seed = sampler, rate, seed

    def __repr__(self) -> str:
        return f"WrongLabels({self.sampler!r}, rate={self.rate}, seed={self.seed})"

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        task = self.sampler[index]
        labels = task.support_y.clone()
        draws = raw_draws(self.seed, index, 1 + 2 * len(labels), _NOISE)
        rate = unit(draws[0]) if self.rate is None else self.rate
        for i, (chance, step) in enumerate(zip(draws[1::2], draws[2::2], strict=True)):
            if unit(chance) < rate:
                labels[i] = (labels[i] + 1 + step % (WAYS - 1)) % WAYS
        return replace(task, support_y=labels)
