"""Meta-trained learners as jobs, and as what other jobs start from."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn_tut import runs
from metalearn_tut.claims.statistics import right_answers
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.claims.tasks import SIDES, WAYS, sampler
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import evaluate, task_values
from metalearn_tut.learners.learner import Learner
from metalearn_tut.training.history import History
from metalearn_tut.training.loop import meta_train


def conv4(width: int, family: str) -> Config:
    """The four-layer network of all studies."""
    shape = {"in_channels": 3, "ways": WAYS, "width": width, "image_size": SIDES[family]}
    return {"name": "Conv4", "norm": "support", **shape}


def two_steps(**more: Any) -> Config:
    """The MAML of all studies: two inner steps from a head at zero, at learned rates."""
    steps = {"inner_lr": 0.4, "inner_steps": 2, "zero_head": True}
    return {"name": "maml", **steps, "rate_mode": "per_layer_and_step", **more}


# Training


def train_and_test(config: Config, folder: Path) -> Values:
    """Meta-train a learner and test it: the plainest job.

    Parameters
    ----------
    config : dict
        ``learner``, what :func:`trained` takes; ``tests`` (see :func:`answers_to`).
    folder : Path
        Keeps checkpoints.
    """
    return answers_to(trained(config["learner"], folder), config["tests"])


def trained(config: Config, folder: Path) -> Any:
    """The learner of a configuration: trained by an earlier job, or here.

    Parameters
    ----------
    config : dict
        ``model`` and ``algorithm`` (see :func:`~metalearn_tut.runs.build_learner`), ``tasks`` (see
        :func:`~metalearn_tut.claims.tasks.sampler`), ``training``, arguments of
        :func:`~metalearn_tut.training.meta_train`, ``seed``, and ``device`` if not the processor.
    folder : Path
        The job's; what is trained is kept for all studies beside theirs.
    """
    learner = build(config)
    shared(config, folder, lambda out: train(learner, config, out))
    return learner


def build(config: Config) -> Any:
    """An untrained learner: one seed, one start."""
    torch.manual_seed(config["seed"])
    return runs.build_learner(config, config.get("device", "cpu"))


def train(learner: Learner, config: Config, out: Path, **more: Any) -> History:
    """Meta-train any learner on the ``tasks`` and by the ``training`` of a configuration."""
    options = {"out": out, "resume": True, "progress": False, **config["training"], **more}
    return meta_train(learner, sampler(config["tasks"]), **options)


def shared(config: Config, folder: Path, make: Callable[[Path], Any]) -> Any:
    """Do ``make(out)`` where all jobs that need the same can find what it left.

    Its work goes on wherever it was interrupted. Two jobs that begin the same at once both do it,
    and either's is kept.

    Parameters
    ----------
    config : dict
        All that decides it.
    folder : Path
        The job's folder, ``OUT/STUDY/JOB``; what is finished lies in ``OUT/trained``.
    make : callable
        Called with a folder, a finished one included, which it must then take as it is.
    """
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    place, mine = folder.parents[1] / "trained" / key, folder / f"part-{key}"
    if place.exists():
        return make(place)
    made = make(mine)
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another job was faster
        mine.rename(place)
    return made


# Tests


def answers_to(learner: Learner, tests: dict[str, Config]) -> Values:
    """Right answers of every task by split, each split being tasks and their ``count``."""
    return {split: answers(learner, wanted) for split, wanted in tests.items()}


def answers(learner: Learner, wanted: Config) -> dict[str, object]:
    """Right answers of each of the first ``wanted["count"]`` tasks."""
    found = evaluate(learner, sampler(wanted), wanted["count"]).values
    queries = WAYS * wanted["queries"]
    return right_answers((found.double() * queries).round(), queries)


def accuracy(learner: Learner, wanted: Config) -> float:
    """Mean over the first ``wanted["count"]`` tasks: what pilots choose by."""
    return task_values(learner, sampler(wanted), range(wanted["count"]))[0].mean().item()


def curve(config: Config, folder: Path) -> Values:
    """A pilot: how accuracy on validation tasks goes on with the steps of :func:`trained`.

    ``config`` has ``learner``, ``watch`` (validation tasks with ``count``) and ``looks``, how
    often in all.
    """
    training, watch = config["learner"], config["watch"]
    looks = {
        "validation": sampler(watch),
        "validation_tasks": watch["count"],
        "validate_every": training["training"]["steps"] // config["looks"],
        "restore_best": False,
    }
    learner = build(training)
    history = train(learner, training, folder / "curve", **looks)
    return {"curve": [[v["step"], round(v["mean"], 4)] for v in history.validation]}


# Costs


def network_cost(network: nn.Module, shape: Sequence[int], masks: Any = None) -> Values:
    """``parameters``, ``macs`` and ``bytes`` of a network, without what masks removed."""
    return {
        "parameters": cost.parameters(network, masks),
        "macs": cost.macs(network, shape, masks),
        "bytes": cost.size_bytes(network, masks),
    }


def deployed_cost(learner: Any, wanted: Config) -> Values:
    """What the network costs that a learner deploys for the first task, without pruned weights."""
    task = sampler(wanted)[0]
    network = learner.adapt(task.support_x, task.support_y).deploy()
    masks = getattr(getattr(learner, "student", learner), "masks", None)
    return network_cost(network, task.support_x.shape[1:], masks)


def latency_ratio(
    network: nn.Module, other: nn.Module, shape: Sequence[int], turns: int, **options: int
) -> float:
    """One network's time over another's: the median over turns.

    They take turns, so that what else the machine does hits both. ``options`` are those of
    :func:`metalearn_tut.evaluation.cost.latency`.
    """
    return statistics.median(
        cost.latency(network, shape, **options) / cost.latency(other, shape, **options)
        for _ in range(turns)
    )
