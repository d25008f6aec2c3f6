"""The jobs of the ABP study: each trains one network, or goes on with another job's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut import block_voting as abp
from metalearn_tut.block_voting.images import answers
from metalearn_tut.claims.abp.pictures import TOGETHER, parts_of
from metalearn_tut.claims.abp.stages import (
    distil,
    gated_network,
    kept_in,
    new_network,
    quiet,
    recipe,
    shorten,
    train_stage,
    vote,
)
from metalearn_tut.claims.learners import shared
from metalearn_tut.claims.statistics import right_answers
from metalearn_tut.claims.study import Config, Values
from metalearn_tut.evaluation import cost
from metalearn_tut.files.tensor_file import read_tensors, write_tensors
from metalearn_tut.models import CifarResNet

SHAPE = (3, 32, 32)
Parts = dict[str, tuple[Tensor, Tensor]]
Work = Callable[[Config, Path, Path], tuple[Values, nn.Module]]
"""``work(config, folder, out)`` -> values and network; what it keeps meanwhile is in ``out``."""


def gates(config: Config, folder: Path) -> Values:
    """Stage 1, from which all arms with gates start: its marks on the training images."""
    return done(config, folder, _gates)[0]


def alone(config: Config, folder: Path) -> Values:
    """Stage 1 of the network without gates."""
    return done(config, folder, _alone)[0]


def pruned(config: Config, folder: Path) -> Values:
    """Stages 2 and 3 of an arm.

    Returns
    -------
    dict
        See :func:`judged`; beside it ``removed`` and ``counts``, blocks and votes of every round,
        and validation accuracies ``soft`` and ``ungated`` before and after the masks jump to 1.
    """
    return done(config, folder, _pruned)[0]


def unpruned(config: Config, folder: Path) -> Values:
    """A network that keeps its blocks: as many epochs of each kind, and the same distillation."""
    return done(config, folder, _unpruned)[0]


def scratch(config: Config, folder: Path) -> Values:
    """The short network that ABP ended with, from new weights, as long.

    In the rounds' epochs the network with gates teaches it, as it was after stage 1.
    """
    setup, parts = _begin(config)
    gone = made_by(config["after"], folder, _pruned, gated_network(setup)).pruned
    teacher = made_by(config["taught"], folder, _gates, gated_network(setup))
    network = new_network(setup, gone)
    train_stage(network, parts["train"], config, "gates", folder)
    distil(network, parts["train"], config, folder, len(gone), teacher)
    train_stage(network, parts["train"], config, "final", folder)
    return judged(network, setup, parts)


def filters(config: Config, folder: Path) -> Values:
    """More rounds on top of an arm's, stage 3, then the smallest filters go, and training."""
    setup, parts = _begin(config)
    gated = made_by(config["after"], folder, _pruned, gated_network(setup))
    rounds = vote(gated, config, folder, parts["train"])
    short = shorten(gated, config, folder, parts).network.cpu()
    abp.zero_filters(short, config["kept"], norms=True)
    narrow = abp.remove_zero_filters(short).to(setup["device"])
    train_stage(narrow, parts["train"], config, "narrow", folder)
    return {**judged(narrow, setup, parts), "removed": [list(each.removed) for each in rounds]}


def longer(config: Config, folder: Path) -> Values:
    """The unpruned network trained on, for as many epochs as filters were pruned after."""
    setup, parts = _begin(config)
    network = made_by(config["after"], folder, _unpruned, new_network(setup))
    distil(network, parts["train"], config, folder, config["rounds"])
    train_stage(network, parts["train"], config, "narrow", folder)
    return judged(network, setup, parts)


# The work of those that others go on from


def _gates(config: Config, folder: Path, out: Path) -> tuple[Values, nn.Module]:
    setup, parts = _begin(config)
    gated = gated_network(setup)
    how = recipe(setup, "gates")
    abp.train_gates(gated, parts["train"], how, out=kept_in(setup, out), **quiet(setup))
    marks = abp.collect_marks(gated, parts["train"][0])
    values = {"validation": right(gated, parts["validation"])}
    return values | {"marks": marks.mean(0).tolist(), "spread": marks.std(0).tolist()}, gated


def _alone(config: Config, folder: Path, out: Path) -> tuple[Values, nn.Module]:
    setup, parts = _begin(config)
    network = new_network(setup)
    train_stage(network, parts["train"], config, "gates", out)
    return {"validation": right(network, parts["validation"])}, network


def _pruned(config: Config, folder: Path, out: Path) -> tuple[Values, nn.Module]:
    setup, parts = _begin(config)
    gated = made_by(config["after"], folder, _gates, gated_network(setup))
    rounds = vote(gated, config, out, parts["train"])
    final = shorten(gated, config, out, parts)
    values = {
        **judged(final.network, setup, parts),
        **{"soft": final.soft, "ungated": final.ungated},
        "removed": [list(each.removed) for each in rounds],
        "counts": [list(each.votes.counts) for each in rounds],
    }
    return values, gated


def _unpruned(config: Config, folder: Path, out: Path) -> tuple[Values, nn.Module]:
    setup, parts = _begin(config)
    network = made_by(config["after"], folder, _alone, new_network(setup))
    distil(network, parts["train"], config, out, config["rounds"])
    train_stage(network, parts["train"], config, "final", out)
    return judged(network, setup, parts), network


def done(config: Config, folder: Path, work: Work) -> tuple[Values, dict[str, Tensor]]:
    """Values and weights of a training that others go on from; done once for all of them."""

    def make(out: Path) -> tuple[Values, dict[str, Tensor]]:
        end = out / "end.safetensors"
        if not end.exists():
            out.mkdir(parents=True, exist_ok=True)
            values, network = work(config, folder, out)
            write_tensors(end, network.state_dict(), {"values": values})
        tensors, state = read_tensors(end)
        return state["values"], tensors

    return shared(config, folder, make)


def made_by(source: Config, folder: Path, work: Work, network: Any) -> Any:
    """``network`` with the weights that another job ends with."""
    network.load_state_dict(done(source["config"], folder, work)[1])
    return network


# What goes in and comes out


def _begin(config: Config) -> tuple[Config, Parts]:
    """What all arms share, and the images and labels of each part, on the device."""
    setup = config["setup"]
    if setup["device"] == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "this study trains on a GPU, and there is none: the study abp, on emoji, needs none"
        )
    found = parts_of(setup["data"]).items()
    tensors = {n: [torch.tensor(a, device=setup["device"]) for a in part] for n, part in found}
    return setup, {n: (x, y) for n, (x, y) in tensors.items()}


def judged(network: nn.Module, setup: Config, parts: Parts) -> Values:
    """Right answers to the validation images and, of the study's own jobs, to the test images.

    Returns
    -------
    dict
        ``validation``, all images being one task; ``test``, some images in a row being one; and
        ``macs``, a share of the whole network's multiply-adds.
    """
    whole = CifarResNet(setup["depth"], setup["classes"])
    found = {
        "validation": right(network, parts["validation"]),
        "macs": cost.macs(copy.deepcopy(network).cpu(), SHAPE) / cost.macs(whole, SHAPE),
    }
    if setup["judge"] == "test":
        found["test"] = right(network, parts["test"], TOGETHER[setup["data"]["name"]])
    return found


def right(network: nn.Module, part: tuple[Tensor, Tensor], of: int | None = None) -> Values:
    """Right answers to so many images in a row, by default to all."""
    images, labels = part
    found = answers(network, images) == labels
    return right_answers(found.view(-1, of or len(labels)).sum(1).tolist(), of or len(labels))
