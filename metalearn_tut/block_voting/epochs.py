"""Ordinary training on labelled images, epoch by epoch: what stands between two prunes."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.images import Data, like, tensors
from metalearn_tut.block_voting.objectives import Objective, cross_entropy
from metalearn_tut.block_voting.recipe import Recipe
from metalearn_tut.files.cache import remove_partial
from metalearn_tut.files.content import architecture, described
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.files.tensor_file import (
    check_same_run,
    copy_tensors,
    read_tensors,
    write_tensors,
)
from metalearn_tut.models.mode import fixed_layers
from metalearn_tut.tasks.task import as_float

History = dict[str, list[float]]


def train_epochs(
    network: nn.Module,
    data: Data,
    recipe: Recipe,
    objective: Objective = cross_entropy,
    *,
    after_epoch: Callable[[nn.Module], None] | None = None,
    seed: int = 0,
    title: str = "train",
    file: str | os.PathLike[str] | None = None,
    note: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a network in place; it is left in evaluation mode.

    Parameters
    ----------
    network : nn.Module
        From images to logits ``[B, classes]``. Its device is the one that is used. Frozen
        parameters (``requires_grad=False``) stay as they are, and a layer all of whose
        parameters are frozen stays in evaluation mode: its running statistics, too.
    data : LabelledImages or (images [M, C, H, W], labels [M])
        ``uint8`` images or floats.
    recipe : Recipe
    objective : callable
        ``objective(network, x, y)`` -> loss and logits; by default cross-entropy.
    after_epoch : callable, optional
        Called with the network at the end of every epoch.
    seed : int, default 0
        Of the order of the images and the augmentation, together with ``title`` and epoch.
    title : str, default "train"
        What the progress bar and errors call this.
    file : path, optional
        Written after every epoch. If it is there, training goes on from it, on a CPU bitwise as
        if it had never stopped.
    note : mapping, optional
        More for the file. One with another note, recipe (augmentation included), objective,
        seed or architecture, or with other images or labels, is refused: by content, not by name.
    progress : bool, default True
        Show a bar with loss, accuracy and time left.

    Returns
    -------
    dict
        ``"loss"`` and ``"accuracy"``, means over the images of each epoch, those before a resume
        included.

    Raises
    ------
    ValueError
        If there is no image, labels do not fit, all parameters are frozen, or the file is of
        another run or network.
    FloatingPointError
        If the loss is no longer finite; the file is that of the epoch before.
    OSError
        If the file cannot be written; the one before is still there.

    Examples
    --------
    >>> data = torch.randn(20, 4), torch.arange(20) % 2
    >>> history = train_epochs(nn.Linear(4, 2), data, Recipe(3, batch=8), progress=False)
    >>> len(history["loss"]), len(history["accuracy"])
    (3, 3)
    """
    x, y = tensors(network, data)
    trained = check_trainable(network)
    optimizer = torch.optim.SGD(
        trained, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    settings = {"recipe": recipe, "seed": seed, "data": {"images": x, "labels": y}}
    settings |= {"objective": objective, "after_epoch": after_epoch, "note": note or {}}
    kept = _Kept(file, network, optimizer, settings)
    history = kept.read()
    first, steps = len(history["loss"]), math.ceil(len(x) / recipe.batch)
    shown = {"initial": steps * first, "unit": "step", "desc": title, "show": progress}
    with progress_bar(steps * recipe.epochs, **shown) as bar:
        for epoch in range(first, recipe.epochs):
            optimizer.param_groups[0]["lr"] = recipe.rate(epoch)
            number = zlib.crc32(f"{seed}/{title}/{epoch}".encode())
            sums = _epoch(network, optimizer, objective, x, y, recipe, number, bar)
            if after_epoch is not None:
                after_epoch(network)
            means = dict(zip(("loss", "accuracy"), (sums / len(x)).tolist(), strict=True))
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(f"{title}: the loss is not finite in epoch {epoch + 1}")
            for name, mean in means.items():
                history[name].append(mean)
            kept.write(history)
            bar.set_postfix({n: f"{mean:.3f}" for n, mean in means.items()}, refresh=False)
    network.eval()
    return history


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    number: int,
    bar: Any,
) -> Tensor:
    """One pass over the images in an order of this number: sums ``[2]`` of loss and right ones."""
    training(network)
    sums = torch.zeros(2, dtype=torch.float64, device=x.device)
    steps = math.ceil(len(x) / recipe.batch)
    with _seeded(number, x.device) as generator:
        for rows in torch.randperm(len(x), generator=generator).tensor_split(steps):
            rows = rows.to(x.device)
            images = as_float(x[rows], like(network).dtype)
            if recipe.augment is not None:
                images = recipe.augment(images, generator)
            loss, logits = objective(network, images, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right = (logits.argmax(1) == y[rows]).sum()
            sums += torch.stack([loss.detach() * len(rows), right])
            bar.update()
    return sums


def check_trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen.

    Raises
    ------
    ValueError
        If there is none.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            f"no parameter of {type(network).__name__} can be trained: all are frozen "
            "(requires_grad=False)"
        )
    return trained


def training(network: nn.Module) -> None:
    """Training mode but for layers whose parameters are all frozen: these stay as they are.

    In training mode a frozen batch norm would go on moving its running statistics, and a frozen
    part of the network dropping units.
    """
    network.train()
    for layer in fixed_layers(network):
        layer.eval()


class _Kept:
    """The file that training can go on from: network, momentum, history, settings.

    Settings are compared as JSON by content: see :func:`~metalearn_tut.files.content.described`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        network: nn.Module,
        optimizer: torch.optim.SGD,
        settings: Mapping[str, Any],
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.network = network
        frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
        own = {
            "network": architecture(network),
            "dtype": str(like(network).dtype),
            "frozen": frozen,
        }
        self.settings = {} if path is None else described({**settings, **own})
        self.momenta: dict[str, Tensor] = {}
        for name, p in ((n, p) for n, p in network.named_parameters() if p.requires_grad):
            # zeros, which SGD's first step makes the gradient, as it would without them
            momentum = torch.zeros_like(p, requires_grad=False)
            optimizer.state[p]["momentum_buffer"] = self.momenta[f"momentum.{name}"] = momentum

    def read(self) -> History:
        """The history of the file, whose tensors are now the network's; else an empty one."""
        if self.path is not None:
            remove_partial(self.path)
        if self.path is None or not self.path.exists():
            return {"loss": [], "accuracy": []}
        saved, state = read_tensors(self.path, "file of training")
        check_same_run(self.path, state.get("settings"), json.loads(json.dumps(self.settings)))
        own = {**self.network.state_dict(), **self.momenta}
        copy_tensors(self.path, saved, own, "file of training")
        return state["history"]

    def write(self, history: History) -> None:
        if self.path is not None:
            state = {"history": history, "settings": self.settings}
            write_tensors(self.path, {**self.network.state_dict(), **self.momenta}, state)


@contextmanager
def _seeded(number: int, device: torch.device) -> Any:
    """A generator on the CPU; PyTorch's own are seeded, too, and restored in the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        yield torch.Generator().manual_seed(number)
