"""learn2learn, as its documentation shows it.

* The loop:
  <https://github.com/learnables/learn2learn/blob/db5cee3795490071282bbdfa81179ef732349196/README.md?plain=1#L50-L65>
* `first_order`, and `allow_nograd` for frozen and unused parameters:
  <https://github.com/learnables/learn2learn/blob/db5cee3795490071282bbdfa81179ef732349196/learn2learn/algorithms/maml.py#L68-L73>
* A learned rate for each parameter, by `lrs`:
  <https://github.com/learnables/learn2learn/blob/db5cee3795490071282bbdfa81179ef732349196/learn2learn/algorithms/meta_sgd.py#L85>

It does not install on Python 3.11 or newer. Its classes are read from the unpacked source
distribution, without the parts that do not compile.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PACKAGES = ("learn2learn",)


def algorithm(name: str) -> ModuleType:
    """``learn2learn.algorithms.NAME`` without running the package's own imports."""
    for package in ("learn2learn", "learn2learn.algorithms"):
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = [str(folder().joinpath(*package.split(".")[1:]))]
            sys.modules[package] = module
    return importlib.import_module(f"learn2learn.algorithms.{name}")


def folder() -> Path:
    found = [Path(p) / "learn2learn" for p in sys.path if (Path(p) / "learn2learn").is_dir()]
    if not found:
        raise ModuleNotFoundError("learn2learn is not here: python conformance_peers install")
    return found[0]


def meta_gradient(module, loss, tasks, *, inner_lr, inner_steps, first_order=False, rates=None):
    module.zero_grad()
    start = dict(module.named_parameters())
    if rates is None:
        settings = {"first_order": first_order, "allow_nograd": True, "allow_unused": True}
        learner, leaves = algorithm("maml").MAML(module, lr=inner_lr, **settings), {}
    elif any(rate.ndim for rate in rates.values()):
        return NotImplemented
    else:
        leaves = {name: rate.clone().requires_grad_() for name, rate in rates.items()}
        each = [leaves[name].expand_as(p) for name, p in module.named_parameters()]
        learner = algorithm("meta_sgd").MetaSGD(module, lrs=each)
    for task in tasks:
        adapted = learner.clone()
        for _ in range(inner_steps):
            adapted.adapt(loss(adapted(task.support_x), task.support_y))
        (loss(adapted(task.query_x), task.query_y) / len(tasks)).backward()
    found = {name: p.grad for name, p in start.items()}
    return found | {f"rates.{name}": rate.grad for name, rate in leaves.items()}
