"""Meta-trained learners as jobs, and as what other jobs start from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut import runs, saliency
from metalearn_tut.checks import check_index
from metalearn_tut.claims.arms import QUERIES, WAYS
from metalearn_tut.claims.records import folder_of_job
from metalearn_tut.claims.statistics import correct_counts
from metalearn_tut.claims.study import Config, Job
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.filters import best_filters, remove_filters
from metalearn_tut.tasks import ClassSource, EpisodeSampler, TaskSampler
from metalearn_tut.tasks.task import Task, TaskBatch
from metalearn_tut.training.loop import meta_train

CONV4: Config = {"name": "Conv4", "in_channels": 1, "ways": WAYS, "norm": "support"}

# Training


def train_and_test(config: Config, folder: Path) -> dict[str, Any]:
    """Meta-train a learner, from scratch or from the end of another job, and test it.

    Parameters
    ----------
    config : dict
        ``name``, that of its job; ``model`` and ``algorithm`` (see
        :func:`~metalearn_tut.runs.build_learner`); ``data`` (see :func:`train_tasks`);
        ``training``, arguments of :func:`~metalearn_tut.training.meta_train`; ``test`` (see
        :func:`correct_by_split`); ``seed``; if not the processor, ``device``; and, if its
        meta-parameters begin as another job left them, that job's configuration as ``start``.
    folder : Path
        Keeps checkpoints, and goes on from them.

    Returns
    -------
    dict
        Right answers of every task by split.
    """
    return correct_by_split(_trained(config, folder), config)


def trained_learner(config: Config, folder: Path) -> MAML:
    """The learner of :func:`train_and_test`, as its job left it or else trained in ``folder``."""
    return _trained(config, folder_of_job(Job(config["name"], config, train_and_test), folder))


def _trained(config: Config, folder: Path) -> MAML:
    torch.manual_seed(config["seed"])
    learner = runs.build_learner(config, config.get("device", "cpu"))
    if "start" in config:
        start = trained_learner(config["start"], folder).meta_parameters()
        with torch.no_grad():
            for name, p in learner.meta_parameters().items():
                p.copy_(start[name])
    train(learner, config, folder)
    return learner


def train(learner: Learner, config: Config, folder: Path) -> None:
    """Meta-train any learner as the configuration of :func:`train_and_test` says."""
    sampler = train_tasks(config["data"], config["seed"])
    options = {"out": folder, "resume": True, "progress": False}
    meta_train(learner, sampler, **config["training"], **options)


def with_network(learner: MAML, network: nn.Module, algorithm: Config) -> MAML:
    """A learner of another network, with the settings ``algorithm`` and the learned rates."""
    other = MAML(network, **{n: value for n, value in algorithm.items() if n != "name"})
    for name, rate in learner.learned_rates.items():
        other.learned_rates[name].data.copy_(rate)
    return other


def narrowed(learner: MAML, tasks: TaskBatch, kept: float, algorithm: Config) -> MAML:
    """A learner of what is left when the filters with the lowest ANP scores are gone for good.

    Parameters
    ----------
    learner : MAML
        Stays as it is.
    tasks : TaskBatch
        Score the weights.
    kept : float
        Share of each layer's filters.
    algorithm : dict
        See :func:`with_network`.
    """
    scores, _ = saliency.scores_of(learner, tasks.blind(), "anp")
    network = remove_filters(learner.model, best_filters(learner.model, scores, kept))
    return with_network(learner, network, algorithm)


# Tasks


def train_tasks(data: Config, seed: int) -> EpisodeSampler:
    """Five-way training tasks of one seed.

    ``data`` has ``shots``, ``queries`` per class and, if it is not glyphs, ``source`` (see
    :func:`~metalearn_tut.runs.build_source`).
    """
    return _source(data, "train").sampler(WAYS, data["shots"], data["queries"], seed)


def first_tasks(tasks: int, split: str = "test") -> Config:
    """What :func:`test_tasks` takes: the first tasks of a split, the same for every learner."""
    seed = 2 if split == "validation" else 1
    return {"split": split, "tasks": tasks, "queries": QUERIES // WAYS, "seed": seed}


def test_tasks(data: Config, wanted: Config) -> EpisodeSampler:
    """The tasks of ``wanted``: its ``split``, its ``queries`` per class, its ``seed``."""
    source = _source(data, wanted["split"])
    return source.sampler(WAYS, data["shots"], wanted["queries"], wanted["seed"])


def _source(data: Config, split: str) -> ClassSource:
    return runs.build_source(data.get("source", {"name": "glyphs"}), split)


class TasksFrom(TaskSampler):
    """A sampler from its task ``first`` on."""

    def __init__(self, sampler: TaskSampler, first: int) -> None:
        self.sampler, self.first = sampler, first

    def __repr__(self) -> str:
        return f"{self.sampler!r} from task {self.first} on"

    def __getitem__(self, index: int) -> Task:
        return self.sampler[check_index(index) + self.first]


# Tests


def correct_by_split(learner: Learner, config: Config) -> dict[str, Any]:
    """Right answers of every task, for each split of ``config["test"]``."""
    tests = config["test"].items()
    return {split: correct_answers(learner, config["data"], wanted) for split, wanted in tests}


def correct_answers(learner: Learner, data: Config, wanted: Config) -> str:
    """Right answers of each of the first ``wanted["tasks"]`` of :func:`test_tasks`, in words."""
    found = evaluate(learner, test_tasks(data, wanted), wanted["tasks"]).values
    return correct_counts(found, WAYS * wanted["queries"])


def network_cost(
    network: nn.Module, shape: Sequence[int], masks: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """``parameters``, ``macs`` and ``bytes`` of a network, without what masks removed."""
    return {
        "parameters": cost.parameters(network, masks),
        "macs": cost.macs(network, shape, masks),
        "bytes": cost.size_bytes(network, masks),
    }


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
