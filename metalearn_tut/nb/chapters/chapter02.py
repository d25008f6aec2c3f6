"""Chapter 2: drawings by a shaky hand, what a file that learns is made of, and its exercises."""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel, deployment, tasks
from metalearn_tut.bilevel import Params
from metalearn_tut.learners import Learner
from metalearn_tut.nb import check, close
from metalearn_tut.tasks import Task

__all__ = ["DRAWINGS", "check_adapt_some", "check_curved_gradient", "draw", "operators"]

DRAWINGS = {
    "house": [(22, 96, 22, 50, 56, 18, 90, 50, 90, 96, 22, 96), (48, 96, 48, 70, 64, 70, 64, 96)],
    "boat": [(14, 78, 98, 78, 80, 98, 32, 98, 14, 78), (56, 78, 56, 14, 88, 66, 56, 66)],
    "star": [(56, 12, 80, 94, 12, 42, 100, 42, 32, 94, 56, 12)],
    "key": [(20, 56, 36, 36, 52, 56, 36, 76, 20, 56), (52, 56, 98, 56, 98, 76), (80, 56, 80, 72)],
    "fish": [(14, 56, 44, 32, 78, 56, 100, 34, 100, 78, 78, 56, 44, 80, 14, 56)],
}
"""Strokes as corners ``x, y, x, y, ...`` on a square of 112."""


def draw(name: str, hand: int) -> np.ndarray:
    """One of :data:`DRAWINGS` by a shaky hand: ``uint8 [28, 28]``, ink 255 on 0.

    Parameters
    ----------
    name : str
        What to draw.
    hand : int
        Whose hand: corners are off by some pixels and the paper is turned, by it alone.

    Examples
    --------
    >>> draw("star", hand=1).shape
    (28, 28)
    """
    from PIL import Image, ImageDraw

    moves = np.random.default_rng(hand)
    paper = Image.new("L", (112, 112))
    pen = ImageDraw.Draw(paper)
    for stroke in DRAWINGS[name]:
        corners = np.array(stroke) + moves.normal(0, 3, len(stroke))
        pen.line(corners.tolist(), fill=255, width=9, joint="curve")
    turned = paper.rotate(moves.uniform(-12, 12))
    return np.array(turned.resize((28, 28), Image.Resampling.BOX))


def operators(learner: Learner, shape: Sequence[int]) -> Counter[str] | None:
    """How often each ONNX operator is in the file that a learner becomes.

    Parameters
    ----------
    learner : Learner
    shape : sequence of int
        Of one image.

    Returns
    -------
    Counter or None
        None where the extra ``deploy`` is not installed.
    """
    extra = ("onnx", "onnxscript", "onnxruntime")
    if not all(map(importlib.util.find_spec, extra)):
        return None
    onnx = importlib.import_module("onnx")
    with tempfile.TemporaryDirectory() as folder:
        deployment.export_learner(learner, Path(folder) / "learns.onnx", tuple(shape))
        graph = onnx.load(Path(folder) / "learns.onnx").graph
    return Counter(node.op_type for node in graph.node)


def check_curved_gradient(my_curved_gradient: Callable[..., float]) -> None:
    """Exercise 2.1: the meta-gradient of a scalar quadratic with curvature h.

    Support loss ``h/2 (w - a)^2``, query loss ``(w - b)^2 / 2``, k steps of size alpha:
    ``(w_k - b)(1 - alpha h)^k`` with ``w_k = a + (w - a)(1 - alpha h)^k``. The right answer
    is computed by automatic differentiation of the k steps.

    Examples
    --------
    >>> def answer(w, a, b, alpha, h, k):
    ...     kept = (1 - alpha * h) ** k
    ...     return (a + (w - a) * kept - b) * kept
    >>> check_curved_gradient(answer)
    Exercise 2.1: correct
    """

    def verify() -> None:
        for case in (
            {"w": 0.7, "a": 1.3, "b": -0.4, "alpha": 0.1, "h": 1.0, "k": 3},
            {"w": 0.7, "a": 1.3, "b": -0.4, "alpha": 0.1, "h": 5.0, "k": 2},
            {"w": -1.0, "a": 0.5, "b": 2.0, "alpha": 0.5, "h": 2.0, "k": 1},
            {"w": 2.0, "a": 0.0, "b": 1.0, "alpha": 0.3, "h": 4.0, "k": 3},
            {"w": 2.0, "a": 0.0, "b": 1.0, "alpha": 0.3, "h": 4.0, "k": 0},
            {"w": 1.0, "a": 0.2, "b": 0.6, "alpha": 0.1, "h": -1.0, "k": 2},
        ):
            what = ", ".join(f"{name} = {value:g}" for name, value in case.items())
            close(
                my_curved_gradient(*case.values()), _curved_gradient(**case), f"gradient for {what}"
            )

    check("Exercise 2.1", verify)


def _curved_gradient(w: float, a: float, b: float, alpha: float, h: float, k: int) -> float:
    start = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    end = start
    for _ in range(k):
        (slope,) = torch.autograd.grad(h / 2 * (end - a) ** 2, end, create_graph=True)
        end = end - alpha * slope
    return torch.autograd.grad((end - b) ** 2 / 2, start)[0].item()


def check_adapt_some(
    my_adapt_some: Callable[[nn.Module, Sequence[str], Tensor, Tensor, float, int], Params],
) -> None:
    """Exercise 2.2: an inner loop that steps only the named parameters.

    ``my_adapt_some(model, names, x, y, inner_lr, inner_steps)`` returns all parameters by
    name; those not in ``names`` as they were. Judged against :func:`bilevel.adapt` with
    ``groups``, and by the gradient that reaches the start.
    """

    def verify() -> None:
        for seed, names, steps in (
            (0, ["4.weight", "4.bias"], 1),
            (1, ["4.weight", "4.bias"], 3),
            (2, ["0.bias", "2.weight"], 2),
            (3, ["4.weight"], 0),
        ):
            _same_adaptation(my_adapt_some, _network(seed), names, _task(seed), steps)

    check("Exercise 2.2", verify)


def _same_adaptation(
    mine: Callable[..., Params], model: nn.Module, names: list[str], task: Task, steps: int
) -> None:
    where = f"{steps} step(s) on {', '.join(names)}"
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapted = mine(model, names, task.support_x, task.support_y, 0.05, steps)
    _unchanged(model, before)
    right = bilevel.adapt(
        model,
        task.support_x,
        task.support_y,
        inner_lr=0.05,
        inner_steps=steps,
        loss=F.mse_loss,
        groups=[names],
    )
    if set(adapted) != set(right):
        raise AssertionError(f"{where}: expected the parameters {', '.join(right)}")
    for name, value in right.items():
        close(adapted[name], value, f"{where}: {name}", 1e-10)
    for name, value in _meta_gradient(model, adapted, task).items():
        expected = _meta_gradient(model, right, task)[name]
        close(value, expected, f"{where}: meta-gradient of {name}", 1e-10)


def _meta_gradient(model: nn.Module, adapted: Params, task: Task) -> Params:
    """Gradient at the model's own parameters, zeros where none arrives."""
    loss = F.mse_loss(bilevel.functional(model)(adapted, task.query_x), task.query_y)
    start = bilevel.parameters_of(model)
    if not loss.requires_grad:
        raise AssertionError("the adapted parameters must be differentiable")
    grads = torch.autograd.grad(
        loss, list(start.values()), retain_graph=True, materialize_grads=True, allow_unused=True
    )
    return dict(zip(start, grads, strict=True))


def _unchanged(model: nn.Module, before: Params) -> None:
    for name, p in model.named_parameters():
        if not torch.equal(p.detach(), before[name]):
            raise AssertionError(f"the model's own parameter {name} was changed")


def _network(seed: int) -> nn.Sequential:
    """A small smooth network in float64; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        return nn.Sequential(*layers).double()


def _task(seed: int) -> Task:
    task = tasks.sinusoid(shots=5, queries=7, seed=100 + seed)[seed]
    return Task(*(getattr(task, n).double() for n in _TENSORS))


_TENSORS = ("support_x", "support_y", "query_x", "query_y")
