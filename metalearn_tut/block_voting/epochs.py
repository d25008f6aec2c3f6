"""Ordinary training on labelled images, epoch by epoch: what stands between two prunes."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.images import Data, like, tensors
from metalearn_tut.block_voting.objectives import Objective, cross_entropy
from metalearn_tut.block_voting.recipe import Recipe
from metalearn_tut.files.content import architecture, described
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.files.resume import Resume
from metalearn_tut.files.tensor_file import copy_tensors
from metalearn_tut.machine import keep_memory
from metalearn_tut.models.mode import fixed_layers
from metalearn_tut.tasks.task import as_float

Step = Callable[[Tensor, Tensor], None]
History = dict[str, list[float]]
_KIND = "file of training"


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
    keep_memory()
    x, y = tensors(network, data)
    trained = check_trainable(network)
    recorded = recipe.recorded and x.device.type == "cuda"
    optimizer = _optimizer(trained, recipe, recorded)
    settings = {"recipe": recipe, "seed": seed, "data": {"images": x, "labels": y}}
    settings |= {"objective": objective, "after_epoch": after_epoch, "note": note or {}}
    run = {} if file is None else _settings(network, **settings)
    resume = Resume(file, run, kind=_KIND, unit="epoch")
    momenta = _momenta(network, optimizer)
    history: History = {"loss": [], "accuracy": []}
    if kept := resume.begin(resume=True):
        own = {**network.state_dict(), **momenta}
        copy_tensors(resume.file, kept.tensors, own, _KIND)
        history = kept.state["history"]
    first, steps = len(history["loss"]), math.ceil(len(x) / recipe.batch)
    sums = torch.zeros(2, dtype=torch.float64, device=x.device)
    step: Step = partial(_descend, network, optimizer, objective, recipe, sums)
    if recorded:
        step = _Recorded(step)
    shown = {"initial": steps * first, "unit": "step", "desc": title, "show": progress}
    with progress_bar(steps * recipe.epochs, **shown) as bar, _own_stream(x.device):
        for epoch in range(first, recipe.epochs):
            _set_rate(optimizer, recipe.rate(epoch))
            number = zlib.crc32(f"{seed}/{title}/{epoch}".encode())
            sums.zero_()
            _epoch(network, step, x, y, recipe, number, bar)
            if after_epoch is not None:
                after_epoch(network)
            means = dict(zip(("loss", "accuracy"), (sums / len(x)).tolist(), strict=True))
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(f"{title}: the loss is not finite in epoch {epoch + 1}")
            for name, mean in means.items():
                history[name].append(mean)
            resume.keep(epoch + 1, {**network.state_dict(), **momenta}, {"history": history})
            bar.set_postfix({n: f"{mean:.3f}" for n, mean in means.items()}, refresh=False)
    network.eval()
    return history


def _optimizer(trained: list[nn.Parameter], recipe: Recipe, recorded: bool) -> torch.optim.SGD:
    """SGD; one that is recorded reads its rate from the GPU, step by step."""
    lr: float | Tensor = recipe.lr
    if recorded:
        lr = torch.tensor(lr, device=trained[0].device)
    options = {"weight_decay": recipe.weight_decay, "fused": recorded or None}
    return torch.optim.SGD(trained, lr, recipe.momentum, **options)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    (group,) = optimizer.param_groups
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _epoch(
    network: nn.Module, step: Step, x: Tensor, y: Tensor, recipe: Recipe, number: int, bar: Any
) -> None:
    """One pass over the images in an order of this number."""
    training(network)
    steps = math.ceil(len(x) / recipe.batch)
    with _seeded(number, x.device) as generator:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.tensor_split(steps):
            images = as_float(x[rows], like(network).dtype)
            if recipe.augment is not None:
                images = recipe.augment(images, generator)
            step(images, y[rows])
            bar.update()


def _descend(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    recipe: Recipe,
    sums: Tensor,
    images: Tensor,
    labels: Tensor,
) -> None:
    """One step; its loss and right answers are added to the sums."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        loss, logits = objective(network, images, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    right = (logits.argmax(1) == labels).sum()
    sums += torch.stack([loss.detach() * len(labels), right])


class _Recorded:
    """A step that a GPU repeats by itself, once it has seen it.

    The first two are done as they are, which also sets up what must not be while it is recorded;
    so are those of a batch of another size.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.left = step, 2
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        if self.left or (self.graph is not None and len(labels) != len(self.labels)):
            self.left -= self.left > 0
            self.step(images, labels)
            return
        if self.graph is None:
            self.images, self.labels = images.clone(), labels.clone()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream(images.device)):
                self.step(self.images, self.labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, work in a stream that can be recorded, after what was asked for before."""
    if device.type != "cuda":
        yield
        return
    before, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(before)
    with torch.cuda.stream(own):
        yield
    before.wait_stream(own)


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


def _settings(network: nn.Module, **given: Any) -> dict[str, Any]:
    """What two trainings must have in common to be one, by content."""
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    own = {"network": architecture(network), "dtype": str(like(network).dtype), "frozen": frozen}
    return described({**given, **own})


def _momenta(network: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The optimizer's momenta by name, from now on in place."""
    momenta = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            # zeros, which SGD's first step makes the gradient, as it would without them
            momentum = torch.zeros_like(p, requires_grad=False)
            optimizer.state[p]["momentum_buffer"] = momenta[f"momentum.{name}"] = momentum
    return momenta


@contextmanager
def _seeded(number: int, device: torch.device) -> Any:
    """A generator on the CPU; PyTorch's own are seeded, too, and restored in the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        yield torch.Generator().manual_seed(number)
