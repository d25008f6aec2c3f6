"""The jobs of the MetaGater study: federated trainings, tests on new nodes, and time."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import gating
from metalearn_tut.claims.records import folder_of_job
from metalearn_tut.claims.statistics import correct_counts
from metalearn_tut.claims.study import Config, Job
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.accuracy import task_values
from metalearn_tut.federated import Across, Federation, Node, by_classes, per_fed_avg, run_rounds
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.gating.networks import ChannelGated
from metalearn_tut.learners.learner import Learner
from metalearn_tut.models import Conv4
from metalearn_tut.saliency.filters import best_filters, remove_filters
from metalearn_tut.tasks import TaskSampler, as_float, glyphs
from metalearn_tut.tasks.task import Task

WAYS, SHAPE = 5, (1, 28, 28)

# Training


def nodes_of(split: str, number: int, seed: int = 0, within: bool = True) -> tuple[Node, ...]:
    """Nodes of five characters each, of one script or of any; splits share no script."""
    source = glyphs(split, within_script=within)
    return by_classes(source, number, WAYS, unseen=0, seed=seed, local_labels=True).train


def build(config: Config) -> Learner:
    """An untrained learner: gated if there are settings ``gates``. One seed, one backbone."""
    torch.manual_seed(config["seed"])
    network = Conv4(SHAPE[0], WAYS, config["width"], norm="support", image_size=SHAPE[1])
    if "gates" in config:
        return MetaGater(ChannelGatedConv4(network), **config["gates"])
    return per_fed_avg(network, config["inner_lr"])


def train(config: Config, folder: Path) -> tuple[Learner, list[dict[str, Any]]]:
    """A learner and its rounds, in ``folder``; a ``start`` is the end of another training."""
    learner = build(config)
    if "start" in config:
        before = config["start"]
        there = folder_of_job(Job(before["name"], before, federated), folder)
        backbone = train(before, there)[0].model
        if "gates" in config:
            learner.model.load_state_dict(backbone.state_dict(), strict=False)
        else:
            learner = per_fed_avg(pruned(backbone, config["kept"]), config["inner_lr"])
    nodes = nodes_of("train", config["nodes"]["train"], config["seed"], config["within_script"])
    federation = Federation(learner, nodes, **config["plan"])
    watch = _watch(learner, nodes, config) if config["watch"] else None
    options = {"out": folder / "rounds", "resume": True, "save_every": 5}
    return learner, run_rounds(federation, watch=watch, **options)


def pruned(network: Conv4, kept: float) -> Conv4:
    """What is left of a network when the smallest filters of every layer are gone, by l1 norm."""
    sizes = {name: p.detach().abs() for name, p in network.named_parameters()}
    return remove_filters(network, best_filters(network, sizes, kept))


def _watch(learner: Learner, nodes: Sequence[Node], config: Config) -> Callable[[int], Config]:
    """The norm of the mean meta-gradient over the first task of some nodes, now and then.

    Always the same tasks, noise and loss (that of the end of training), so that rounds compare.
    """
    plan, asked = config["plan"], config["watch"]
    samplers = [node.sampler(plan["support"], plan["query"], 10**6) for node in nodes]
    batches = [sampler.batch(0, 1) for sampler in samplers[: asked["nodes"]]]

    def norms(number: int) -> Config:
        if number and (number + 1) % asked["every"]:
            return {}
        metas = learner.meta_parameters()
        total = {name: torch.zeros_like(p) for name, p in metas.items()}
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            for batch in batches:
                loss = learner.task_losses(batch, 1.0).losses.mean()
                for part, g in zip(
                    total.values(), torch.autograd.grad(loss, list(metas.values())), strict=True
                ):
                    part += g / len(batches)
        squares = {name: part.square().sum().item() for name, part in total.items()}
        gates = math.fsum(s for name, s in squares.items() if name.startswith("gates."))
        return {"gradient": math.fsum(squares.values()) ** 0.5, "gates' gradient": gates**0.5}

    return norms


# Tests


def federated(config: Config, folder: Path) -> dict[str, Any]:
    """Train, and test on nodes whose classes nobody has seen.

    Returns
    -------
    dict
        By number of support images: right answers of every new node. ``macs``: active
        multiply-adds as a share of a whole ungated network's, likewise; ``answers``: how many a
        node gave; ``open``: share of open filters by layer (10 images); ``rates``: those tuned;
        ``gradient``: norms of the whole and of the gates' part by round, where they were watched;
        ``bytes``: sent in both directions; ``loss``: of every round; ``left_out``: clients.
    """
    learner, records = train(config, folder)
    found: dict[str, Any] = {"rates": None}
    if "rates" in config:
        learner, found["rates"] = tune_rates(learner, config)
    found |= test_on_new_nodes(learner, config)
    found["gradient"] = {
        str(r["round"]): [r["gradient"], r["gates' gradient"]] for r in records if "gradient" in r
    }
    found["bytes"] = sum(r["bytes_down"] + r["bytes_up"] for r in records)
    return found | {"loss": [r["loss"] for r in records], "left_out": _left_out(records)}


def _left_out(records: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{r['round']}: {name}" for r in records for name in r["left_out"]]


def tune_rates(learner: MetaGater, config: Config) -> tuple[MetaGater, list[float]]:
    """Two stages for gates that were trained without: the rates that are best on validation."""
    tasks = new_node_tasks("validation", config, config["validation"]["support"])
    return best_rates(learner, config["rates"], tasks, config["validation"]["tasks"])


def best_rates(
    learner: MetaGater, rates: Sequence[Sequence[float]], tasks: TaskSampler, n: int
) -> tuple[MetaGater, list[float]]:
    """The learner with that pair of rates, of backbone and gates, that is best on n tasks."""
    rest = {"sparsity": learner.sparsity, "target": learner.inner.target}
    choices = [
        (MetaGater(learner.model, *pair, **rest), list(pair)) for pair in itertools.product(*rates)
    ]
    return max(choices, key=lambda choice: task_values(choice[0], tasks, range(n))[0].mean().item())


def new_node_tasks(split: str, config: Config, support: int) -> Across:
    """Tasks of the nodes of a split, the same for every learner and seed."""
    nodes = nodes_of(split, config["nodes"][split])
    return Across(nodes, support, config["test"]["query"], seed=config["test"]["seed"])


def test_on_new_nodes(learner: Learner, config: Config) -> dict[str, Any]:
    """Right answers by node and multiply-adds, for each number of support images."""
    found, macs, n = {}, {}, config["nodes"]["test"]
    whole = cost.macs(Conv4(SHAPE[0], WAYS, config["width"], image_size=SHAPE[1]), SHAPE)
    for support in config["test"]["supports"]:
        tasks = new_node_tasks("test", config, support)
        right, shares, opened = [], [], []
        for i in range(n * config["test"]["draws"]):
            task = tasks[i]
            answer = answer_task(learner, task)
            for values, value in zip((right, shares, opened), answer, strict=True):
                values.append(value)
        found[str(support)] = correct_by_node(torch.tensor(right), n, config)
        macs[str(support)] = statistics.mean(shares) / whole
        if support == 10:
            found["open"] = torch.tensor(opened).mean(0).tolist()
    each = config["test"]["draws"] * config["test"]["query"]
    return found | {"macs": macs, "answers": each}


def correct_by_node(right: torch.Tensor, nodes: int, config: Config) -> str:
    """Right answers of every node, all its tasks together, from those of every task."""
    each = config["test"]["draws"] * config["test"]["query"]
    return correct_counts(right.view(-1, nodes).sum(0) / each, each)


def answer_task(learner: Learner, task: Task) -> tuple[int, float, list[float]]:
    """Right answers after adaptation, mean multiply-adds, and share of open filters by layer."""
    network = learner.adapt(task.support_x, task.support_y).deploy()
    x = as_float(task.query_x.to(next(network.parameters()).device))
    with torch.no_grad():
        if isinstance(network, ChannelGated):
            logits, masks = network.run(x)
            macs = gating.active_macs(network, masks, x.shape[1:]).double().mean().item()
        else:
            logits, masks, macs = network(x), [], cost.macs(network, x.shape[1:])
    right = (logits.argmax(1).cpu() == task.query_y).sum().item()
    return right, macs, [mask.mean().item() for mask in masks]
