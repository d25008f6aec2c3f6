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
from metalearn_tut.claims.turns import TURNS
from metalearn_tut.evaluation import cost
from metalearn_tut.files.tensor_file import read_tensors, write_tensors
from metalearn_tut.models import CifarResNet

SHAPE = (3, 32, 32)
END = "end.safetensors"
Run = Callable[[Config, Path], dict[str, Any]]


# What goes in and comes out


def parts_on(setup: Config) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The images and labels of each part, on the device."""
    found = parts_of(setup["data"]).items()
    return {n: tuple(torch.tensor(a, device=setup["device"]) for a in part) for n, part in found}


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
        found["right"] = packed((answers(network, images) == labels).cpu().numpy())
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
        augment=partial(_augment, **setup["augment"]),
        bfloat16=_on_gpu(setup),
        recorded=_on_gpu(setup),
    )


def _augment(x: torch.Tensor, generator: torch.Generator, **how: Any) -> torch.Tensor:
    """Others have their turn before each step."""
    TURNS.pass_on()
    return abp.crop_and_flip(x, generator, **how)


def _on_gpu(setup: Config) -> bool:
    return setup["device"] != "cpu"


def new_network(setup: Config, gone: Sequence[int] = ()) -> CifarResNet:
    """The whole network, or a shorter one, with new weights."""
    torch.manual_seed(setup["seed"])
    network = abp.remove_blocks(CifarResNet(setup["depth"], setup["classes"]), gone)
    return network.to(setup["device"])


def gated_network(setup: Config) -> BlockGated:
    """The whole network and its gates, with new weights; without gates, the same ones."""
    torch.manual_seed(setup["seed"])
    whole = CifarResNet(setup["depth"], setup["classes"])
    return BlockGated(whole, setup["gate"]).to(setup["device"])


def vote(gated: BlockGated, config: Config, folder: Path, train: Any) -> list[abp.Round]:
    """Stage 2, in place; one shot distils for as many epochs as all rounds together."""
    each = recipe(config["setup"], "round", config["factor"])
    each = dataclasses.replace(each, epochs=each.epochs * config["voting"].get("per_round", 1))
    options = {"n_prune": config["n_prune"], **config["voting"], **_quiet(config["setup"])}
    return abp.vote_and_prune(gated, train, each, out=kept_in(config["setup"], folder), **options)


def shorten(gated: BlockGated, config: Config, folder: Path, parts: dict[str, Any]) -> abp.Final:
    """Stage 3."""
    last = recipe(config["setup"], "final", config["factor"])
    out = kept_in(config["setup"], folder)
    options = {"out": out, "held_out": parts["validation"], **_quiet(config["setup"])}
    return abp.finalise(gated, parts["train"], last, **options)


def distil(
    network: nn.Module,
    train: Any,
    config: Config,
    folder: Path,
    rounds: int,
    teacher: nn.Module | None = None,
) -> None:
    """Rounds without a prune: from the network as it was, if no teacher is given."""
    for number in range(1, rounds + 1):
        teach = abp.distillation(teacher or copy.deepcopy(network))
        train_stage(network, train, config, "round", folder, teach, f"round {number}")


def train_stage(
    network: nn.Module,
    train: Any,
    config: Config,
    stage: str,
    folder: Path,
    objective: Any = abp.cross_entropy,
    title: str | None = None,
) -> None:
    """One stage of a network without gates; the first has no factor."""
    title = title or stage
    how = recipe(config["setup"], stage, 1.0 if stage == "gates" else config["factor"])
    out = kept_in(config["setup"], folder)
    file = out and out / f"{title.replace(' ', '-')}.safetensors"
    options = {"file": file, "title": title, **_quiet(config["setup"])}
    abp.train_epochs(network, train, how, objective, **options)


def kept_in(setup: Config, folder: Path) -> Path | None:
    """Where a training goes on from when interrupted; on a GPU it is too short for that."""
    return None if _on_gpu(setup) else folder


def _quiet(setup: Config) -> dict[str, Any]:
    return {"seed": setup["seed"], "progress": False}


# From one job to the next


def keep(network: nn.Module, folder: Path) -> None:
    """What a job made, for those that go on from it."""
    write_tensors(folder / END, network.state_dict(), {})


def made_by(source: Config, run: Run, network: nn.Module, folder: Path) -> nn.Module:
    """``network`` with the weights that another job kept; it is done here if it is not there."""
    job = Job(source["job"], source["config"], run)
    made = folder_of_job(job, folder)
    if not (made / END).exists():
        made.mkdir(parents=True, exist_ok=True)
        run(job.config, made)
    network.load_state_dict(read_tensors(made / END, "network")[0])
    return network


# Jobs


def gates(config: Config, folder: Path) -> dict[str, Any]:
    """Stage 1, from which all arms with gates start: what its marks are on the training images."""
    setup = config["setup"]
    parts = parts_on(setup)
    gated = gated_network(setup)
    how = recipe(setup, "gates")
    abp.train_gates(gated, parts["train"], how, out=kept_in(setup, folder), **_quiet(setup))
    marks = abp.collect_marks(gated, parts["train"][0])
    keep(gated, folder)
    return {
        "validation": abp.image_accuracy(gated, parts["validation"]),
        "marks": marks.mean(0).tolist(),
        "spread": marks.std(0).tolist(),
    }


def alone(config: Config, folder: Path) -> dict[str, Any]:
    """Stage 1 of the network without gates."""
    setup = config["setup"]
    parts = parts_on(setup)
    network = new_network(setup)
    train_stage(network, parts["train"], config, "gates", folder)
    keep(network, folder)
    return {"validation": abp.image_accuracy(network, parts["validation"])}


def pruned(config: Config, folder: Path) -> dict[str, Any]:
    """Stages 2 and 3 of an arm.

    Returns
    -------
    dict
        See :func:`judged`; beside it ``removed`` and ``counts``, blocks and votes of every round,
        and validation accuracies ``soft`` and ``ungated`` before and after the masks jump to 1.
    """
    setup = config["setup"]
    parts = parts_on(setup)
    gated = made_by(config["after"], gates, gated_network(setup), folder)
    rounds = vote(gated, config, folder, parts["train"])
    final = shorten(gated, config, folder, parts)
    keep(gated, folder)
    return {
        **judged(final.network, setup, parts),
        **{"soft": final.soft, "ungated": final.ungated},
        "removed": [list(each.removed) for each in rounds],
        "counts": [list(each.votes.counts) for each in rounds],
    }


def unpruned(config: Config, folder: Path) -> dict[str, Any]:
    """A network that keeps its blocks: as many epochs of each kind, and the same distillation."""
    setup = config["setup"]
    parts = parts_on(setup)
    network = made_by(config["after"], alone, new_network(setup), folder)
    distil(network, parts["train"], config, folder, config["rounds"])
    train_stage(network, parts["train"], config, "final", folder)
    keep(network, folder)
    return judged(network, setup, parts)


def scratch(config: Config, folder: Path) -> dict[str, Any]:
    """The short network that ABP ended with, from new weights, as long.

    In the rounds' epochs the network with gates teaches it, as it was after stage 1.
    """
    setup = config["setup"]
    parts = parts_on(setup)
    gone = made_by(config["after"], pruned, gated_network(setup), folder).pruned
    teacher = made_by(config["taught"], gates, gated_network(setup), folder)
    network = new_network(setup, gone)
    train_stage(network, parts["train"], config, "gates", folder)
    distil(network, parts["train"], config, folder, len(gone), teacher)
    train_stage(network, parts["train"], config, "final", folder)
    return judged(network, setup, parts)


def filters(config: Config, folder: Path) -> dict[str, Any]:
    """More rounds on top of an arm's, stage 3, then the smallest filters go, and training."""
    setup = config["setup"]
    parts = parts_on(setup)
    gated = made_by(config["after"], pruned, gated_network(setup), folder)
    rounds = vote(gated, config, folder, parts["train"])
    short = shorten(gated, config, folder, parts).network.cpu()
    abp.zero_filters(short, config["kept"], norms=True)
    narrow = abp.remove_zero_filters(short).to(setup["device"])
    train_stage(narrow, parts["train"], config, "narrow", folder)
    removed = [list(each.removed) for each in rounds]
    return {**judged(narrow, setup, parts), "removed": removed}


def longer(config: Config, folder: Path) -> dict[str, Any]:
    """The unpruned network trained on, for as many epochs as filters were pruned after."""
    setup = config["setup"]
    parts = parts_on(setup)
    network = made_by(config["after"], unpruned, new_network(setup), folder)
    distil(network, parts["train"], config, folder, config["rounds"])
    train_stage(network, parts["train"], config, "narrow", folder)
    return judged(network, setup, parts)
