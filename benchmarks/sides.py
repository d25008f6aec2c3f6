"""The packages side by side: one meta-gradient, computed as each one's README shows.

A peer is a class with the network that it trains, ``net``; ``meta_gradient(batch)`` adds the
mean meta-gradient of a batch to the ``.grad`` of its parameters, ``predict(task)`` adapts to the
support set and gives the outputs of the query set. `learn2learn` does not install on Python 3.11
or newer, as its data part does not compile; its class MAML is pure Python, and is read from the
source distribution unpacked in ``build/peers`` (``make bench`` puts it there).
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.models import Conv4
from metalearn_tut.tasks import Task, TaskBatch, as_float

UNPACKED = Path(__file__).parents[1] / "build" / "peers"


class OrdinaryBlock(nn.Module):
    """Convolution, batch norm, ReLU, pooling: as usually written."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)


class OrdinaryConv4(nn.Module):
    """The function that a ``Conv4`` computes, its parameters under the same names."""

    def __init__(self, net: Conv4) -> None:
        super().__init__()
        convs = [block.conv for block in net.blocks]
        self.blocks = nn.Sequential(*(OrdinaryBlock(c.in_channels, c.out_channels) for c in convs))
        self.head = nn.Linear(net.head.in_features, net.head.out_features)
        self.to(net.head.weight.dtype).load_state_dict(net.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).flatten(1))


def loss_on(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(as_float(x, next(net.parameters()).dtype)), y)


def outputs_of(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(as_float(x, next(net.parameters()).dtype))


class Higher:
    """github.com/facebookresearch/higher, README and examples/maml-omniglot.py."""

    def __init__(self, net: nn.Module, inner_lr: float, inner_steps: int) -> None:
        self.higher = importlib.import_module("higher")
        self.net, self.inner_steps = net, inner_steps
        self.inner = torch.optim.SGD(net.parameters(), lr=inner_lr)

    def meta_gradient(self, batch: TaskBatch) -> None:
        for task in batch:
            with self.higher.innerloop_ctx(self.net, self.inner, copy_initial_weights=False) as (
                net,
                optimizer,
            ):
                for _ in range(self.inner_steps):
                    optimizer.step(loss_on(net, task.support_x, task.support_y))
                (loss_on(net, task.query_x, task.query_y) / len(batch)).backward()

    def predict(self, task: Task) -> Tensor:
        with self.higher.innerloop_ctx(self.net, self.inner, track_higher_grads=False) as (
            net,
            optimizer,
        ):
            for _ in range(self.inner_steps):
                optimizer.step(loss_on(net, task.support_x, task.support_y))
            return outputs_of(net, task.query_x)


class Learn2Learn:
    """github.com/learnables/learn2learn, README."""

    def __init__(self, net: nn.Module, inner_lr: float, inner_steps: int) -> None:
        self.maml = learn2learn_maml().MAML(net, lr=inner_lr)
        self.net, self.inner_steps = net, inner_steps

    def meta_gradient(self, batch: TaskBatch) -> None:
        for task in batch:
            learner = self.adapted(task)
            (loss_on(learner, task.query_x, task.query_y) / len(batch)).backward()

    def predict(self, task: Task) -> Tensor:
        return outputs_of(self.adapted(task, first_order=True), task.query_x)

    def adapted(self, task: Task, first_order: bool = False) -> Any:
        learner = self.maml.clone(first_order=first_order)
        for _ in range(self.inner_steps):
            learner.adapt(loss_on(learner, task.support_x, task.support_y))
        return learner


class TorchOpt:
    """github.com/metaopt/torchopt, examples/few-shot/maml_omniglot.py."""

    def __init__(self, net: nn.Module, inner_lr: float, inner_steps: int) -> None:
        self.torchopt = importlib.import_module("torchopt")
        self.net, self.inner_steps = net, inner_steps
        self.inner = self.torchopt.MetaSGD(net, lr=inner_lr)
        extract = self.torchopt.extract_state_dict
        self.start = extract(net, by="reference", detach_buffers=True)
        self.inner_start = extract(self.inner, by="reference")

    def meta_gradient(self, batch: TaskBatch) -> None:
        for task in batch:
            self.adapt(task)
            (loss_on(self.net, task.query_x, task.query_y) / len(batch)).backward()
            self.begin_again()

    def predict(self, task: Task) -> Tensor:
        self.adapt(task)
        outputs = outputs_of(self.net, task.query_x)
        self.begin_again()
        return outputs

    def adapt(self, task: Task) -> None:
        for _ in range(self.inner_steps):
            self.inner.step(loss_on(self.net, task.support_x, task.support_y))

    def begin_again(self) -> None:
        self.torchopt.recover_state_dict(self.net, self.start)
        self.torchopt.recover_state_dict(self.inner, self.inner_start)


PEERS = {"higher": Higher, "learn2learn": Learn2Learn, "torchopt": TorchOpt}


def learn2learn_maml() -> ModuleType:
    """The module ``learn2learn.algorithms.maml``, installed or unpacked."""
    name = "learn2learn.algorithms.maml"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        folders = sorted(UNPACKED.glob("learn2learn-*/learn2learn"))
        if not folders:
            raise ImportError(f"learn2learn is neither installed nor in {UNPACKED}") from error
    for package in ("learn2learn", "learn2learn.algorithms"):  # without what their own files import
        module = ModuleType(package)
        module.__path__ = [str(folders[-1].joinpath(*package.split(".")[1:]))]
        sys.modules[package] = module
    return importlib.import_module(name)


def versions() -> dict[str, str]:
    """The peers that can be used here, and how."""
    found = {}
    for name in PEERS:
        try:
            module = learn2learn_maml() if name == "learn2learn" else importlib.import_module(name)
        except ImportError:
            continue
        unpacked = UNPACKED in Path(module.__file__).parents
        number = Path(module.__file__).parents[2].name.rpartition("-")[2] if unpacked else None
        found[name] = f"{number}, class MAML alone" if unpacked else version(name)
    return found
