"""The jobs of the MetaGater studies: federated trainings, tested on nodes that are new."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import gating
from metalearn_tut.claims.learners import shared
from metalearn_tut.claims.metagater.choices import right_by_choice
from metalearn_tut.claims.statistics import right_answers
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.claims.tasks import SIDES, WAYS, source
from metalearn_tut.evaluation import cost
from metalearn_tut.federated import Federation, Node, by_classes, per_fed_avg, run_rounds
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.gating.networks import ChannelGated
from metalearn_tut.learners.learner import Learner
from metalearn_tut.models import Conv4
from metalearn_tut.saliency.filters import best_filters, remove_filters
from metalearn_tut.tasks import as_float
from metalearn_tut.tasks.task import Task


def federated(config: Config, folder: Path) -> Values:
    """Train, and test on new nodes.

    Parameters
    ----------
    config : dict
        ``training`` (see :func:`trained`) and ``tests`` (see :func:`answers_of_nodes`).
    folder : Path
        Keeps checkpoints.

    Returns
    -------
    dict
        By split the right answers of every node, and of gated networks those with as many filters
        chosen otherwise (see :func:`~metalearn_tut.claims.metagater.choices.right_by_choice`);
        ``macs``, the multiply-adds of an answer as a share of those of the whole network.
    """
    learner = trained(config["training"], folder)
    values: Values = {}
    for split, wanted in config["tests"].items():
        found = answers_of_nodes(learner, wanted, config["training"])
        values |= {split: found.pop("own"), "macs": found.pop("macs"), **found}
    return values


def trained(config: Config, folder: Path) -> Any:
    """A learner after all rounds, as an earlier job left it, or trained here.

    Parameters
    ----------
    config : dict
        ``data``, ``width``, ``inner_lr``, ``seed``; ``nodes``, how many; ``plan``, arguments of
        :class:`~metalearn_tut.federated.Federation`; ``gates``, arguments of
        :class:`~metalearn_tut.gating.MetaGater`, if there are any; and for a network that is
        pruned, ``start``, such a configuration, and ``kept``, the share of filters that stay.
    folder : Path
        The job's.
    """
    learner = _built(config, folder)
    federation = Federation(learner, _nodes(config), **config["plan"])

    def run(out: Path) -> None:
        run_rounds(federation, out=out, resume=True, save_every=10)

    shared(config, folder, run)
    return learner


def _built(config: Config, folder: Path) -> Learner:
    """The learner before its first round: one seed, one backbone."""
    if "start" in config:
        network = trained(config["start"], folder).model
        sizes = {name: p.detach().abs() for name, p in network.named_parameters()}
        narrow = remove_filters(network, best_filters(network, sizes, config["kept"]))
        return per_fed_avg(narrow, config["inner_lr"])
    torch.manual_seed(config["seed"])
    network = _whole(config).to(config.get("device", "cpu"))
    if "gates" in config:
        gated = ChannelGatedConv4(network).to(config.get("device", "cpu"))
        return MetaGater(gated, config["inner_lr"], **config["gates"])
    return per_fed_avg(network, config["inner_lr"])


def _whole(config: Config) -> Conv4:
    return Conv4(3, WAYS, config["width"], norm="support", image_size=SIDES[config["data"]])


def _nodes(config: Config) -> tuple[Node, ...]:
    """Nodes of five classes each, that train."""
    return nodes_of(config["data"], "train", config["nodes"], config["plan"]["seed"])


def nodes_of(family: str, split: str, number: int, seed: int) -> tuple[Node, ...]:
    """Nodes of five classes each, which every node numbers in its own way."""
    classes = source(family, split)
    return by_classes(classes, number, WAYS, unseen=0, seed=seed, local_labels=True).train


def answers_of_nodes(learner: Learner, wanted: Config, training: Config) -> Values:
    """Right answers of every new node: the learner's ``own``, and those by other choices.

    ``macs`` is the mean share of multiply-adds of its own answers. ``wanted`` has ``split``,
    ``nodes``, how often nodes are dealt (``deals``), ``support`` and ``query`` images, ``draws`` of
    them from each node, and a ``seed``.
    """
    family, side = training["data"], SIDES[training["data"]]
    whole = cost.macs(_whole(training), (3, side, side))
    right: dict[str, list[int]] = {}
    shares = []
    for deal in range(wanted["deals"]):
        seed = wanted["seed"] + deal
        for node in nodes_of(family, wanted["split"], wanted["nodes"], seed):
            tasks = node.sampler(wanted["support"], wanted["query"], seed)
            total: Counter[str] = Counter()
            for i in range(wanted["draws"]):
                own, macs = answer(learner, tasks[i])
                shares.append(macs / whole)
                total["own"] += own
                if isinstance(learner, MetaGater):
                    total.update(right_by_choice(learner, tasks[i], i))
            for name, n in total.items():
                right.setdefault(name, []).append(n)
    answers = wanted["draws"] * wanted["query"]
    kept = {name: right_answers(each, answers) for name, each in right.items()}
    return {**kept, "macs": statistics.fmean(shares)}


def answer(learner: Learner, task: Task) -> tuple[int, float]:
    """Right answers to a task's query images after adaptation, and mean multiply-adds of one."""
    network = learner.adapt(task.support_x, task.support_y).deploy()
    x = as_float(task.query_x.to(next(network.parameters()).device))
    with torch.no_grad():
        if isinstance(network, ChannelGated):
            logits, masks = network.run(x)
            macs = gating.active_macs(network, masks, x.shape[1:]).double().mean().item()
        else:
            logits, macs = network(x), float(cost.macs(network, x.shape[1:]))
    return int((logits.argmax(1).cpu() == task.query_y).sum()), macs
