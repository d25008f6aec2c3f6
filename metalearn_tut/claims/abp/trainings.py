"""The jobs of the ABP study: each trains one network, or goes on with another job's."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metalearn_tut import block_voting as abp
from metalearn_tut.block_voting import BlockGated
from metalearn_tut.block_voting.images import answers
from metalearn_tut.claims.abp.pictures import parts_of
from metalearn_tut.claims.records import folder_of_job
from metalearn_tut.claims.study import Config, Job
from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet

SHAPE = (3, 32, 32)
Run = Callable[[Config, Path], dict[str, Any]]


# What comes out


def judged(network: nn.Module, setup: Config, parts: dict[str, Any]) -> dict[str, Any]:
    """Validation accuracy and multiply-adds; of the study's own jobs also the test images.

    Returns
    -------
    dict
        ``validation``, ``macs``, and ``right``: which test images are classified rightly, a bit
        each, as hexadecimal digits.
    """
    found = {
        "validation": abp.image_accuracy(network, parts["validation"]),
        "macs": cost.macs(copy.deepcopy(network).cpu(), SHAPE),
    }
    if setup["judge"] == "test":
        images, labels = parts["test"]
        found["right"] = packed(answers(network, images).cpu().numpy() == labels)
    return found


def packed(right: np.ndarray) -> str:
    """Truth values as hexadecimal digits.

    Examples
    --------
    >>> packed(np.array([True, False, True, True, False]))
    'b0'
    """
    return np.packbits(right).tobytes().hex()


def unpacked(digits: str, n: int) -> np.ndarray:
    """The first ``n`` truth values again."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))[:n].astype(bool)


# Stages


def recipe(setup: Config, stage: str, factor: float = 1.0) -> abp.Recipe:
    """How a stage is trained."""
    return abp.Recipe(
        setup["epochs"][stage],
        setup["rates"][stage] * factor,
        batch=setup["batch"],
        weight_decay=setup["weight_decay"],
        augment=partial(abp.crop_and_flip, **setup["augment"]),
        bfloat16=setup.get("bfloat16", False),
    )


def new_network(setup: Config, gone: Sequence[int] = ()) -> CifarResNet:
    """The whole network, or a shorter one, with new weights."""
    torch.manual_seed(setup["seed"])
    network = abp.remove_blocks(CifarResNet(setup["depth"], setup["classes"]), gone)
    return network.to(setup.get("device", "cpu"))


def gated_network(config: Config, folder: Path, train: Any) -> BlockGated:
    """Stage 1 with gates; taken from ``folder`` where that is done already."""
    setup = config["setup"]
    torch.manual_seed(setup["seed"])
    whole = CifarResNet(setup["depth"], setup["classes"])
    gated = BlockGated(whole, setup["gate"]).to(setup.get("device", "cpu"))
    abp.train_gates(gated, train, recipe(setup, "gates"), out=folder, **_quiet(setup))
    return gated


def voted_network(config: Config, folder: Path, train: Any) -> tuple[BlockGated, list[abp.Round]]:
    """Stage 2: the network with gates after its rounds."""
    gated = _of(config["after"], gated_network, folder, train)
    return gated, _voted(gated, config, folder, train)


def _voted(gated: BlockGated, config: Config, folder: Path, train: Any) -> list[abp.Round]:
    """Rounds, in place; one shot distils for as many epochs as all rounds together."""
    each = recipe(config["setup"], "round", config["factor"])
    each = dataclasses.replace(each, epochs=each.epochs * config["voting"].get("per_round", 1))
    options = {"n_prune": config["n_prune"], **config["voting"], **_quiet(config["setup"])}
    return abp.vote_and_prune(gated, train, each, out=folder, **options)


def short_network(
    gated: BlockGated, config: Config, folder: Path, parts: dict[str, Any]
) -> abp.Final:
    """Stage 3."""
    last = recipe(config["setup"], "final", config["factor"])
    options = {"out": folder, "held_out": parts["validation"], **_quiet(config["setup"])}
    return abp.finalise(gated, parts["train"], last, **options)


def alone_network(config: Config, folder: Path, train: Any) -> CifarResNet:
    """Stage 1 without gates."""
    network = new_network(config["setup"])
    _train(network, train, config, "gates", folder)
    return network


def unpruned_network(config: Config, folder: Path, train: Any) -> CifarResNet:
    """After stage 1, rounds without a prune, and the final training."""
    network = _of(config["after"], alone_network, folder, train)
    _rounds(network, train, config, folder)
    _train(network, train, config, "final", folder)
    return network


def _rounds(
    network: nn.Module, train: Any, config: Config, folder: Path, teacher: nn.Module | None = None
) -> None:
    """Rounds of distillation: from the network as it was, if no teacher is given."""
    for number in range(1, config["rounds"] + 1):
        teach = abp.distillation(teacher or copy.deepcopy(network))
        _train(network, train, config, "round", folder, teach, f"round {number}")


def _train(
    network: nn.Module,
    train: Any,
    config: Config,
    stage: str,
    folder: Path,
    objective: Any = abp.cross_entropy,
    title: str | None = None,
) -> None:
    """One stage of a network without gates."""
    title = title or stage
    how = recipe(config["setup"], stage, config.get("factor", 1.0))
    file = folder / f"{title.replace(' ', '-')}.safetensors"
    options = {"file": file, "title": title, **_quiet(config["setup"])}
    abp.train_epochs(network, train, how, objective, **options)


def _of(after: Config, network: Callable[..., Any], folder: Path, train: Any) -> Any:
    """What another job made, from its folder, or made here if it is not there."""
    config = after["config"]
    return network(config, folder_of_job(Job(after["job"], config, print), folder), train)


def _quiet(setup: Config) -> dict[str, Any]:
    return {"seed": setup["seed"], "progress": False}


# Jobs


def gates(config: Config, folder: Path) -> dict[str, Any]:
    """Stage 1, from which all arms with gates start: what its marks are on the training images."""
    parts = parts_of(config["setup"]["data"])
    gated = gated_network(config, folder, parts["train"])
    marks = abp.collect_marks(gated, parts["train"][0])
    return {
        "validation": abp.image_accuracy(gated, parts["validation"]),
        "marks": marks.mean(0).tolist(),
        "spread": marks.std(0).tolist(),
    }


def alone(config: Config, folder: Path) -> dict[str, Any]:
    """Stage 1 of the network without gates."""
    parts = parts_of(config["setup"]["data"])
    network = alone_network(config, folder, parts["train"])
    return {"validation": abp.image_accuracy(network, parts["validation"])}


def pruned(config: Config, folder: Path) -> dict[str, Any]:
    """Stages 2 and 3 of an arm.

    Returns
    -------
    dict
        See :func:`judged`; beside it ``removed`` and ``counts``, blocks and votes of every round,
        and validation accuracies ``soft`` and ``ungated`` before and after the masks jump to 1.
    """
    parts = parts_of(config["setup"]["data"])
    gated, rounds = voted_network(config, folder, parts["train"])
    final = short_network(gated, config, folder, parts)
    return {
        **judged(final.network, config["setup"], parts),
        **{"soft": final.soft, "ungated": final.ungated},
        "removed": [list(each.removed) for each in rounds],
        "counts": [list(each.votes.counts) for each in rounds],
    }


def unpruned(config: Config, folder: Path) -> dict[str, Any]:
    """A network that keeps its blocks: as many epochs of each kind, and the same distillation."""
    parts = parts_of(config["setup"]["data"])
    network = unpruned_network(config, folder, parts["train"])
    return judged(network, config["setup"], parts)


def scratch(config: Config, folder: Path) -> dict[str, Any]:
    """The short network that ABP ended with, from new weights, as long.

    In the rounds' epochs the network with gates teaches it, as it was after stage 1.
    """
    setup = config["setup"]
    parts = parts_of(setup["data"])
    arm = config["after"]["config"]
    source = folder_of_job(Job(config["after"]["job"], arm, print), folder)
    _, rounds = voted_network(arm, source, parts["train"])
    network = new_network(setup, [block for each in rounds for block in each.removed])
    teacher = _of(config["taught"], gated_network, folder, parts["train"])
    _train(network, parts["train"], {**config, "factor": 1.0}, "gates", folder)
    _rounds(network, parts["train"], {**config, "rounds": arm["n_prune"]}, folder, teacher)
    _train(network, parts["train"], config, "final", folder)
    return judged(network, setup, parts)


def filters(config: Config, folder: Path) -> dict[str, Any]:
    """More rounds on top of an arm's, stage 3, then the smallest filters go, and training."""
    setup = config["setup"]
    parts = parts_of(setup["data"])
    gated, _ = _of(config["after"], voted_network, folder, parts["train"])
    more = {**config, "voting": {}}
    rounds = _voted(gated, more, folder, parts["train"])
    short = short_network(gated, more, folder, parts).network
    abp.zero_filters(short, config["kept"], norms=True)
    narrow = abp.remove_zero_filters(short)
    _train(narrow, parts["train"], config, "narrow", folder)
    removed = [list(each.removed) for each in rounds]
    return {**judged(narrow, setup, parts), "removed": removed}


def longer(config: Config, folder: Path) -> dict[str, Any]:
    """The unpruned network trained on, for as many epochs as filters were pruned after."""
    parts = parts_of(config["setup"]["data"])
    network = _of(config["after"], unpruned_network, folder, parts["train"])
    _rounds(network, parts["train"], config, folder)
    _train(network, parts["train"], config, "narrow", folder)
    return judged(network, config["setup"], parts)
