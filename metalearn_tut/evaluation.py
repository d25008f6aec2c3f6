"""What a learner's accuracy may claim: paired tasks, fixed steps, and an interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.learner import Learner, accuracy_of
from metalearn_tut.tasks.sampler import TaskSampler

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
    values = values.double()
    half = 1.96 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return values.mean().item(), half


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
        How query images were normalized; never compare across protocols.
    steps : int or None
        Inner steps taken, if the learner takes any.
    """

    values: Tensor
    sampler: str
    protocol: str
    steps: int | None = None

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return interval(self.values)[0]

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % interval over tasks."""
        return interval(self.values)[1]

    def __str__(self) -> str:
        steps = "" if self.steps is None else f", {self.steps} inner steps"
        return (
            f"{self.mean:.4f} ± {self.half_width:.4f} "
            f"({len(self.values)} tasks{steps}; {self.protocol})"
        )


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float]:
    """Mean of ``a - b`` task by task, and the half-width of its 95 % interval.

    Raises
    ------
    ValueError
        If the two were not measured on the same tasks.
    """
    if a.sampler != b.sampler or len(a.values) != len(b.values):
        raise ValueError(
            "paired_difference needs the same tasks on both sides, got "
            f"{len(a.values)} of {a.sampler} and {len(b.values)} of {b.sampler}"
        )
    return interval(a.values.double() - b.values.double())


def evaluate(
    learner: Learner,
    sampler: TaskSampler,
    n_tasks: int = 600,
    *,
    steps: int | None = None,
    metric: Callable[[Tensor, Tensor], Tensor] | None = None,
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
        (outputs, targets) -> scalar; accuracy by default.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Evaluation
        ``print`` it for "mean ± interval (tasks; protocol)".
    """
    limit = len(sampler) if hasattr(sampler, "__len__") else math.inf
    if not 1 <= n_tasks <= limit:
        raise ValueError(f"n_tasks must be in 1..{limit}, got {n_tasks}")
    options = {} if steps is None else {"steps": steps}
    values = []
    for i in _counted(n_tasks, progress):
        task = sampler[i]
        predict = learner.adapt(task.support_x, task.support_y, **options)
        outputs = predict(task.query_x)
        targets = task.query_y.to(outputs.device)
        value = accuracy_of(outputs, targets) if metric is None else metric(outputs, targets)
        if value is None:
            raise ValueError("tasks with real targets need a metric, such as F.mse_loss")
        values.append(value)
    model = getattr(learner, "model", None)
    used = steps if steps is not None else getattr(learner, "inner_steps", None)
    return Evaluation(torch.stack(values).cpu(), repr(sampler), PROTOCOLS[norm_of(model)], used)


def _counted(n: int, progress: bool) -> range:
    if not progress:
        return range(n)
    from tqdm.auto import tqdm

    return tqdm(range(n), desc="evaluate", unit="task")
