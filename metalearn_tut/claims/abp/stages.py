"""What the trainings of the ABP study are made of: its stages, on a processor or a GPU."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn_tut import block_voting as abp
from metalearn_tut.block_voting import BlockGated
from metalearn_tut.claims.study import Config
from metalearn_tut.claims.turns import TURNS
from metalearn_tut.models import CifarResNet


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
    options = {"n_prune": config["n_prune"], **config["voting"], **quiet(config["setup"])}
    return abp.vote_and_prune(gated, train, each, out=kept_in(config["setup"], folder), **options)


def shorten(gated: BlockGated, config: Config, folder: Path, parts: dict[str, Any]) -> abp.Final:
    """Stage 3."""
    last = recipe(config["setup"], "final", config["factor"])
    out = kept_in(config["setup"], folder)
    options = {"out": out, "held_out": parts["validation"], **quiet(config["setup"])}
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
    options = {"file": file, "title": title, **quiet(config["setup"])}
    abp.train_epochs(network, train, how, objective, **options)


def kept_in(setup: Config, folder: Path) -> Path | None:
    """Where a training goes on from when interrupted; on a GPU it is too short for that."""
    return None if _on_gpu(setup) else folder


def quiet(setup: Config) -> dict[str, Any]:
    """Options that all trainings of a seed have."""
    return {"seed": setup["seed"], "progress": False}
