"""What a learner's accuracy may claim: paired tasks, fixed steps, and an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalearn_tut.learner import Learner, accuracy_of
from metalearn_tut.tasks.sampler import TaskSampler

Metric = Callable[[Tensor, Tensor], Tensor]

PROTOCOLS = {
    "batch": "transductive: normalized by the query batch",
    "support": "deployable: normalized by the support set",
    "group": "group norm: each image alone",
    "none": "no normalization across images",
}


def interval(values: Tensor) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, ``1.96 · sd / sqrt(n)``, sd with n - 1.

    Examples
    --------
    >>> mean, half = interval(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> round(mean, 3), round(half, 3)
    (0.5, 0.566)
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"values must be a vector of at least one number, got shape {list(values.shape)}"
        )
    values = values.double()
    half = 1.96 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return values.mean().item(), half


def protocol_of(learner: Learner) -> str:
    """How the learner's network normalizes query images, in words.

    A network of this package says it by its ``norm``; of another it is seen from its layers.
    """
    model = getattr(learner, "model", None)
    norm = getattr(model, "norm", None)
    if isinstance(norm, str) and norm in PROTOCOLS:
        return PROTOCOLS[norm]
    layers = model.modules() if isinstance(model, nn.Module) else ()
    norms = [m for m in layers if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if any(m.training or m.running_mean is None for m in norms):
        return PROTOCOLS["batch"]
    return "running statistics of training" if norms else PROTOCOLS["none"]


@dataclass(frozen=True)
class Evaluation:
    """Per-task results of one learner on one list of tasks.

    Parameters
    ----------
    values : Tensor [n]
        One number per task, in task order: accuracy, unless another metric was given.
    sampler : str
        Which tasks.
    protocol : str
        How query images were normalized; numbers of different protocols answer different
        questions.
    steps : int or None
        Inner steps taken, if the learner takes any.
    metric : str, default "accuracy"
        What the values are.
    """

    values: Tensor
    sampler: str
    protocol: str
    steps: int | None = None
    metric: str = "accuracy"

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return interval(self.values)[0]

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % interval over tasks."""
        return interval(self.values)[1]

    def __str__(self) -> str:
        name = "" if self.metric == "accuracy" else f"{self.metric} "
        steps = "" if self.steps is None else f", {self.steps} inner steps"
        return (
            f"{name}{self.mean:.4f} ± {self.half_width:.4f} "
            f"({len(self.values)} tasks{steps}; {self.protocol})"
        )

    def to_dict(self, values: bool = False) -> dict[str, Any]:
        """What a results file holds, ready for JSON.

        Parameters
        ----------
        values : bool, default False
            Include the number of every task.
        """
        summary = {
            "metric": self.metric,
            "mean": self.mean,
            "half_width": self.half_width,
            "n_tasks": len(self.values),
            "steps": self.steps,
            "protocol": self.protocol,
            "sampler": self.sampler,
        }
        return {**summary, "values": self.values.tolist()} if values else summary


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float]:
    """Mean of ``a - b`` task by task, and the half-width of its 95 % interval.

    Raises
    ------
    ValueError
        If the two were not measured by one metric on the same tasks.
    """
    for what, x, y in (
        ("the same tasks", *(f"{len(e.values)} of {e.sampler}" for e in (a, b))),
        ("one metric", a.metric, b.metric),
    ):
        if x != y:
            raise ValueError(f"paired_difference needs {what} on both sides, got {x} and {y}")
    return interval(a.values.double() - b.values.double())


def evaluate(
    learner: Learner,
    sampler: TaskSampler,
    n_tasks: int = 600,
    *,
    steps: int | None = None,
    metric: Metric | None = None,
    progress: bool = False,
) -> Evaluation:
    """Adapt to each of the first ``n_tasks`` tasks and score the query sets.

    Parameters
    ----------
    learner : Learner
        Anything with ``adapt(support_x, support_y)``.
    sampler : TaskSampler
        Tasks; two learners evaluated on one sampler are paired.
    n_tasks : int, default 600
        Number of tasks, at most the sampler's length if it has one.
    steps : int, optional
        Inner steps, fixed for all tasks; the learner's own number by default.
    metric : callable, optional
        (outputs, targets) -> scalar, such as ``F.mse_loss``; accuracy by default.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Evaluation
        ``print`` it for "mean ± interval (tasks; protocol)".

    Raises
    ------
    ValueError
        If there are not as many tasks, if ``steps`` is given to a learner that takes none,
        or if tasks have real targets and there is no metric.

    Examples
    --------
    >>> from metalearn_tut import MAML, tasks
    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> sampler = tasks.from_arrays(x, torch.arange(60) % 3).sampler(ways=3, shots=2, queries=5)
    >>> result = evaluate(MAML(nn.Linear(4, 3), inner_lr=0.1), sampler, n_tasks=50)
    >>> len(result.values), result.steps, result.half_width < 0.1
    (50, 1, True)
    """
    check_n_tasks(sampler, n_tasks)
    if steps is not None and not hasattr(learner, "inner_steps"):
        raise ValueError(f"steps={steps}, but {type(learner).__name__} takes no inner steps")
    indices = _counted(n_tasks) if progress else range(n_tasks)
    values = task_values(learner, sampler, indices, steps=steps, metric=metric)
    used = steps if steps is not None else getattr(learner, "inner_steps", None)
    name = "accuracy" if metric is None else getattr(metric, "__name__", type(metric).__name__)
    return Evaluation(values.cpu(), repr(sampler), protocol_of(learner), used, name)


def check_n_tasks(sampler: TaskSampler, n_tasks: int, name: str = "n_tasks") -> None:
    """Refuse a number of tasks that the sampler does not have."""
    if not isinstance(n_tasks, (int, np.integer)):
        raise ValueError(f"{name} must be an integer, got {n_tasks!r}")
    if n_tasks < 1:
        raise ValueError(f"{name} must be at least 1, got {n_tasks}")
    if hasattr(sampler, "__len__") and n_tasks > len(sampler):
        raise ValueError(f"{name} must be in 1..{len(sampler)}, the tasks there are, got {n_tasks}")


def task_values(
    learner: Learner,
    sampler: TaskSampler,
    indices: Iterable[int],
    *,
    steps: int | None = None,
    metric: Metric | None = None,
) -> Tensor:
    """The metric of each of these tasks ``[n]``: the loop behind :func:`evaluate`."""
    options = {} if steps is None else {"steps": steps}
    values = []
    for i in indices:
        task = sampler[i]
        predict = learner.adapt(task.support_x, task.support_y, **options)
        outputs = predict(task.query_x)
        targets = task.query_y.to(outputs.device)
        value = accuracy_of(outputs, targets) if metric is None else metric(outputs, targets)
        if value is None:
            raise ValueError("tasks with real targets need a metric, such as F.mse_loss")
        values.append(value.detach())  # a graph kept per task would fill the memory
    return torch.stack(values)


def _counted(n: int) -> Iterable[int]:
    from tqdm.auto import tqdm

    return tqdm(range(n), desc="evaluate", unit="task")
