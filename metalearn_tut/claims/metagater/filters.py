"""Filters chosen otherwise, as many of them; and whether leaving filters out saves time."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut import gating
from metalearn_tut.claims.metagater.jobs import (
    WAYS,
    Config,
    correct_by_node,
    federated,
    new_node_tasks,
    train,
)
from metalearn_tut.claims.records import folder_of_job
from metalearn_tut.claims.study import Job
from metalearn_tut.evaluation import cost
from metalearn_tut.gating import ChannelGatedConv4, MetaGater, skip
from metalearn_tut.gating.networks import ChannelGated, DensePass
from metalearn_tut.models import Conv4, deploy
from metalearn_tut.tasks import as_float
from metalearn_tut.tasks.task import Task

CHOICES = ("learned", "scratch", "random", "magnitude", "average")

# As many filters, chosen otherwise


class RankedPass(DensePass):
    """Open as many filters as is said for each image, those of highest rank.

    Parameters
    ----------
    gates : nn.ModuleList
    counts : list of Tensor [B]
        How many, for each gate.
    scores : list of Tensor [C_l], optional
        What ranks the filters; by default each image's own logits.
    n_support : int
    """

    def __init__(
        self,
        gates: nn.ModuleList,
        counts: Sequence[Tensor],
        scores: Sequence[Tensor] | None,
        n_support: int,
    ) -> None:
        super().__init__(gates, "learned", None, 1.0, n_support)
        self.counts, self.scores = counts, scores

    def mask(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """The mask ``[B, C]`` of the next gate."""
        i = len(self.masks)
        scores = self.gates[i](x) if self.scores is None else self.scores[i].expand(len(x), -1)
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
        self.masks.append((rank < self.counts[i][:, None]).to(x))
        return self.masks[-1]


def choices(config: Config, folder: Path) -> dict[str, Any]:
    """Right answers of an adapted backbone by how its filters are chosen, each as many.

    The adapted gates say how many filters of each layer an image gets. ``learned`` are those that
    they open; ``scratch``, those of highest logit after gates with new weights were trained on the
    support set, the backbone as it is (the rate and number of steps that are best on validation
    nodes); ``random``, drawn for each task; ``magnitude``, those with the largest weights, by l1
    norm; ``average``, those whose mean logit over the support set is highest. Statistics for the
    norms come from the support set under the same choice.

    Returns
    -------
    dict
        By choice and number of support images (``"random 10"``): right answers of every new
        node. ``rates``: step size and number of steps for new gates.
    """
    arm = config["arm"]
    learner, _ = train(arm, folder_of_job(Job(config["of"], arm, federated), folder))
    rates, n = _best_scratch(learner, config), arm["nodes"]["test"]
    found = {}
    for support in arm["test"]["supports"]:
        tasks, right = new_node_tasks("test", arm, support), {choice: [] for choice in CHOICES}
        for i in range(n * arm["test"]["draws"]):
            for choice, share in correct_by_choice(learner, tasks[i], i, rates).items():
                right[choice].append(share)
        for choice, values in right.items():
            found[f"{choice} {support}"] = correct_by_node(torch.tensor(values), n, arm)
    return {**found, "rates": rates}


def _best_scratch(learner: MetaGater, config: Config) -> list[float]:
    """Step size and number of steps with which new gates are best on validation nodes."""
    arm, found = config["arm"], {}
    tasks = new_node_tasks("validation", arm, arm["validation"]["support"])
    for lr in config["scratch"]["lr"]:
        for steps in config["scratch"]["steps"]:
            right = [
                correct_by_choice(learner, tasks[i], i, (lr, steps), ("scratch",))["scratch"]
                for i in range(arm["validation"]["tasks"])
            ]
            found[lr, steps] = sum(right)
    return list(max(found, key=found.__getitem__))


@torch.no_grad()
def correct_by_choice(
    learner: MetaGater,
    task: Task,
    number: int,
    rates: Sequence[float],
    wanted: Sequence[str] = CHOICES,
) -> dict[str, int]:
    """Right answers of one task by choice; its number decides what is random."""
    adapted = learner.adapt(task.support_x, task.support_y)
    network = copy.deepcopy(learner.model)
    network.load_state_dict(adapted.params)
    device, n = network.head.weight.device, len(task.support_x)
    x = as_float(torch.cat([task.support_x, task.query_x]).to(device))
    logits, masks = network.run(x, n)
    counts = [mask.sum(1) for mask in masks]
    generator = torch.Generator().manual_seed(number)
    found = {}
    for choice in wanted:
        gates, scores = network.gates, None
        if choice == "scratch":
            gates = _new_gates(learner, network, task, number, *rates)
        elif choice == "random":
            scores = [torch.rand(c, generator=generator).to(device) for c in network.sizes]
        elif choice == "magnitude":
            gated = [name for name, (_, gate) in network.wires.items() if gate is not None]
            weights = (network.get_submodule(name).weight for name in gated)
            scores = [weight.abs().sum((1, 2, 3)) for weight in weights]
        elif choice == "average":
            scores = _mean_logits(network, x, n)
        if choice != "learned":
            run = RankedPass(gates, counts, scores, n)
            logits = run.head(network.head, network.flow(x, run))
        found[choice] = (logits[n:].argmax(1).cpu() == task.query_y).sum().item()
    return found


def _mean_logits(network: ChannelGated, x: Tensor, n: int) -> list[Tensor]:
    """The mean logit of every filter over the support set."""
    seen: list[Tensor] = []
    hooks = [
        gate.register_forward_hook(lambda gate, args, out: seen.append(out[:n].mean(0)))
        for gate in network.gates
    ]
    network.run(x, n)
    for hook in hooks:
        hook.remove()
    return seen


def _new_gates(
    learner: MetaGater, network: ChannelGated, task: Task, number: int, lr: float, steps: int
) -> nn.ModuleList:
    """Gates of this network with new weights, trained on a support set."""
    with torch.random.fork_rng([]):
        torch.manual_seed(number)
        fresh = type(network)(network.ungated())
    rest = {"sparsity": learner.sparsity, "target": learner.inner.target}
    stages = ["gates"] * int(steps)
    of_gates = MetaGater(fresh, 0.0, lr, stages=stages, seed=learner.seed, **rest)
    fresh.load_state_dict(of_gates.adapt(task.support_x, task.support_y).params)
    return fresh.gates


# Time


def latency(config: Config, folder: Path) -> dict[str, Any]:
    """Seconds of gated networks for one image, relative to the same networks without gates.

    Gates are computed, and always open the first filters of every layer, as many as is said. The
    two sides take turns, so that what else the machine does hits both.

    Returns
    -------
    dict
        By network and share of open filters: ``macs``, the active multiply-adds; ``time``, the
        median over the turns; ``spread``, the quartiles. Both relative to the ungated network.
    """
    found = {}
    for name, (channels, width, size) in config["networks"].items():
        shape = (channels, size, size)
        for share in config["open"]:
            gated = ChannelGatedConv4(Conv4(channels, WAYS, width, image_size=size))
            open_first(gated, share)
            x = torch.rand(WAYS, *shape, generator=torch.Generator().manual_seed(0))
            network, plain = deploy(gated, {}, x), deploy(gated.ungated(), {}, x)
            sides = (lambda: skip(network, x[:1])), (lambda: plain(x[:1]))  # noqa: B023
            with torch.no_grad():
                _seconds(sides[0], config["calls"]), _seconds(sides[1], config["calls"])
                ratios = [
                    _seconds(sides[0], config["calls"]) / _seconds(sides[1], config["calls"])
                    for _ in range(config["turns"])
                ]
                active = gating.active_macs(network, network.masks(x[:1]), shape).item()
            found[f"{name} {share}"] = {
                "macs": active / cost.macs(plain, shape),
                "time": statistics.median(ratios),
                "spread": statistics.quantiles(ratios)[::2],
            }
    return found


def open_first(network: ChannelGatedConv4, share: float) -> None:
    """Make gates open the first filters of every layer, this share of them, whatever they see."""
    with torch.no_grad():
        for gate in network.gates:
            n = round(share * gate.outer.out_features)
            gate.outer.weight.zero_()
            gate.outer.bias.fill_(-1.0)
            gate.outer.bias[:n] = 1.0


def _seconds(work: Callable[[], Any], calls: int) -> float:
    """The least time of some calls."""
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)
