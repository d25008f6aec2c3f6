"""The jobs of the ABP studies: gates, prunes, the networks they are compared with, and latency."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metalearn_tut import block_voting as abp
from metalearn_tut.block_voting import BlockGated
from metalearn_tut.block_voting.images import answers
from metalearn_tut.claims.learners import latency_ratio
from metalearn_tut.claims.records import folder_of_job
from metalearn_tut.claims.study import Config, Job
from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet
from metalearn_tut.tasks import cifar10, glyphs

SHAPE = (3, 32, 32)

# Images


def images(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of the parts ``train``, ``validation`` and ``test``, of 32x32 in color."""
    return {"characters": characters, "cifar10": _cifar}[config["name"]](config)


def characters(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Some training glyphs as one problem of many classes, the same for every seed.

    The first images of each class, in an order of its own, are for training, the next for
    validation and the rest for the test.
    """
    n, (train, validation) = config["classes"], config["per_class"]
    source, generator = glyphs("train"), np.random.default_rng(0)
    chosen = np.sort(generator.permutation(source.n_classes)[:n]).tolist()
    found = source.select(chosen, f"{n} characters").as_supervised()
    padded = np.pad(found.images, ((0, 0), (0, 0), (2, 2), (2, 2))).repeat(3, 1)
    order = np.stack([20 * c + generator.permutation(20) for c in range(n)])
    parts = np.split(order, [train, train + validation], axis=1)
    names = ("train", "validation", "test")
    return {
        name: (padded[rows.ravel()], np.asarray(found.labels)[rows.ravel()])
        for name, rows in zip(names, parts, strict=True)
    }


def _cifar(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As many of the first images of each split as are asked for."""
    found = {split: cifar10(split) for split in ("train", "validation", "test")}
    return {n: (data.images[: config[n]], data.labels[: config[n]]) for n, data in found.items()}


def correct_images(network: nn.Module, data: tuple[np.ndarray, np.ndarray]) -> str:
    """Which images are classified rightly, as ``1 0 1 ...``."""
    return " ".join(str(int(r)) for r in answers(network, data[0]).cpu().numpy() == data[1])


# Networks


def train_gated(config: Config, folder: Path) -> dict[str, Any]:
    """Stage 1, from which the arms of a seed start.

    Returns
    -------
    dict
        ``test``: which test images are right; ``marks`` and ``spread``: mean and standard
        deviation of every block's mark over the training images.
    """
    data = images(config["data"])
    gated = gated_network(config, folder, data["train"])
    marks = abp.collect_marks(gated, data["train"][0])
    return {
        "test": correct_images(gated, data["test"]),
        "marks": marks.mean(0).tolist(),
        "spread": marks.std(0).tolist(),
    }


def gated_network(config: Config, folder: Path, train: Any) -> BlockGated:
    """A network trained with its gates; taken from ``folder`` where that is done already."""
    torch.manual_seed(config["seed"])
    gated = BlockGated(CifarResNet(config["depth"], config["classes"]), config["gate"])
    gated.to(config.get("device", "cpu"))
    options = {"out": folder, "seed": config["seed"], "progress": False}
    abp.train_gates(gated, train, recipe(config, "gates"), **options)
    return gated


def recipe(config: Config, stage: str, epochs: int | None = None) -> abp.Recipe:
    """The recipe of a stage, its epochs unless others are asked for."""
    augment = partial(abp.crop_and_flip, **config["augment"])
    epochs = config["recipes"][stage]["epochs"] if epochs is None else epochs
    lr, batch = config["recipes"][stage]["lr"], config["batch"]
    return abp.Recipe(epochs, lr, batch=batch, augment=augment)


def _folder_of(name: str, config: Config, run: Any, folder: Path) -> Path:
    """Where another job's files are; the study ``abp`` may have done it."""
    return folder_of_job(Job(name, config, run), folder, "abp")


def pruned(config: Config, folder: Path) -> dict[str, Any]:
    """Stages 2 and 3 of an arm.

    Returns
    -------
    dict
        ``test``: which test images the final network has right; ``soft`` and ``ungated``: its
        accuracy there before and after the masks jump to 1, before the last training;
        ``removed``, ``votes``: blocks and votes of every round; ``rounds``: accuracy after each.
    """
    data = images(config["gates"]["data"])
    rounds, final = pruned_network(config, folder, data["train"], data["test"])
    return {
        "test": correct_images(final.network, data["test"]),
        "soft": final.soft,
        "ungated": final.ungated,
        "removed": [list(each.removed) for each in rounds],
        "votes": [each.votes.as_json() for each in rounds],
        "rounds": [each.accuracy for each in rounds],
        "macs": cost.macs(final.network, SHAPE),
    }


def pruned_network(
    config: Config, folder: Path, train: Any, held_out: Any = None
) -> tuple[list[abp.Round], abp.Final]:
    """The rounds and the outcome; taken from ``folder`` where that is done already."""
    setup = config["gates"]
    source = _folder_of(setup["name"], setup, train_gated, folder)
    gated = gated_network(setup, source, train)
    options = {"out": folder, "seed": setup["seed"], "progress": False, "held_out": held_out}
    each, last = recipe(setup, "round", config["epochs"]), recipe(setup, "final", config["final"])
    rounds = abp.vote_and_prune(gated, train, each, **config["voting"], **options)
    return rounds, abp.finalise(gated, train, last, **options)


def unpruned(config: Config, folder: Path) -> dict[str, Any]:
    """A network without gates that keeps its blocks: as many epochs, and the same distillation."""
    data = images(config["gates"]["data"])
    network = unpruned_network(config, folder, data["train"])
    return {"test": correct_images(network, data["test"]), "macs": cost.macs(network, SHAPE)}


def unpruned_network(config: Config, folder: Path, train: Any) -> CifarResNet:
    """Stage 1 without gates, rounds without a prune, and the last training."""
    setup = config["gates"]
    torch.manual_seed(setup["seed"])
    network = CifarResNet(setup["depth"], setup["classes"]).to(setup.get("device", "cpu"))
    options = {"seed": setup["seed"], "progress": False}
    first, last = recipe(setup, "gates"), recipe(setup, "final", config["final"])
    each = recipe(setup, "round", config["epochs"])
    file = folder / "1-alone.safetensors"
    abp.train_epochs(network, train, first, file=file, title="gates", **options)
    for number in range(1, config["rounds"] + 1):
        teach = abp.distillation(copy.deepcopy(network))
        file = folder / f"2-round-{number:02}.safetensors"
        title = f"round {number}"
        abp.train_epochs(network, train, each, teach, file=file, title=title, **options)
    file = folder / "3-final.safetensors"
    abp.train_epochs(network, train, last, file=file, title="final", **options)
    return network


def scratch(config: Config, folder: Path) -> dict[str, Any]:
    """The short network that an arm ended with, from new weights, as long.

    In the rounds' epochs the network with gates teaches it, as it was after stage 1.
    """
    arm = config["arm"]
    setup = arm["gates"]
    data, options = images(setup["data"]), {"seed": setup["seed"], "progress": False}
    source = _folder_of(setup["name"], setup, train_gated, folder)
    gated = gated_network(setup, source, data["train"])
    source = _folder_of(config["of"], arm, pruned, folder)
    done, _ = pruned_network(arm, source, data["train"])
    torch.manual_seed(setup["seed"])
    whole = CifarResNet(setup["depth"], setup["classes"]).to(setup.get("device", "cpu"))
    network = abp.remove_blocks(whole, [block for each in done for block in each.removed])
    taught = len(done) * arm["epochs"]
    stages = (
        ("gates", recipe(setup, "gates"), abp.cross_entropy),
        ("taught", recipe(setup, "round", taught), abp.distillation(gated)),
        ("final", recipe(setup, "final", arm["final"]), abp.cross_entropy),
    )
    for title, how, objective in stages:
        file = folder / f"{title}.safetensors"
        abp.train_epochs(network, data["train"], how, objective, file=file, title=title, **options)
    return {"test": correct_images(network, data["test"]), "macs": cost.macs(network, SHAPE)}


# Filters


def prune_filters(config: Config, folder: Path) -> dict[str, Any]:
    """Soft filter pruning on top of an arm's final network, and some more training."""
    arm = config["arm"]
    setup = arm["gates"]
    data, options = images(setup["data"]), {"seed": setup["seed"], "progress": False}
    if "rounds" in arm:
        source = _folder_of(config["of"], arm, unpruned, folder)
        network = unpruned_network(arm, source, data["train"])
    else:
        source = _folder_of(config["of"], arm, pruned, folder)
        network = pruned_network(arm, source, data["train"])[1].network
    how = {**setup, "recipes": config.get("recipes", setup["recipes"])}
    soft, after = (recipe(how, stage) for stage in ("filters", "narrow"))
    file = folder / "filters.safetensors"
    train = data["train"]
    narrow = abp.soft_filter_prune(network, train, config["kept"], soft, file=file, **options)
    file = folder / "narrow.safetensors"
    abp.train_epochs(narrow, train, after, file=file, title="narrow", **options)
    return {"test": correct_images(narrow, data["test"]), "macs": cost.macs(narrow, SHAPE)}


# Latency


def latency(config: Config, folder: Path) -> dict[str, Any]:
    """Multiply-adds and seconds of shortened networks, relative to the whole ones.

    Returns
    -------
    dict
        By depth and ratio: ``removed``, the number of blocks; ``macs``; and by batch size
        ``latency``, the median over the turns.
    """
    found: dict[str, Any] = {}
    for depth in config["depths"]:
        whole = CifarResNet(depth).eval()
        for ratio in config["ratios"]:
            n = abp.block_budget(whole, ratio)
            short = abp.remove_blocks(whole, abp.prunable_blocks(whole)[-n:])
            found[f"{depth} {ratio}"] = {
                "removed": n,
                "macs": cost.macs(short, SHAPE) / cost.macs(whole, SHAPE),
                "latency": {
                    str(batch): latency_ratio(
                        short, whole, SHAPE, config["turns"], batch=batch, warmup=2, repeats=5
                    )
                    for batch in config["batches"]
                },
            }
    return found
