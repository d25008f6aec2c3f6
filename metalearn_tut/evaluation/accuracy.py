"""A learner's accuracy on new tasks: the same ones for all, with a fixed number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn_tut.checks import whole_number
from metalearn_tut.evaluation.intervals import Evaluation
from metalearn_tut.files.content import content_hash, described
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.learners.learner import Learner
from metalearn_tut.machine import keep_memory
from metalearn_tut.machine.threads import each, workers_of
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.models.norms import TaskBatchNorm2d
from metalearn_tut.models.proof import depends_on_others
from metalearn_tut.scoring import Metric, check_function, is_finite, score
from metalearn_tut.tasks.sampler import TaskSampler
from metalearn_tut.tasks.task import Task

PROTOCOLS = {
    "batch": "transductive: normalized by the query batch",
    "support": "deployable: normalized by the support set",
    "group": "group norm: each image alone",
    "none": "no normalization across images",
}
_DRAWN = 16  # tasks in memory at a time


def protocol_of(predict: Any, x: Tensor) -> str:
    """How a predictor normalizes images, in words: found by giving it one alone.

    Parameters
    ----------
    predict : callable
        What ``learner.adapt(support_x, support_y)`` gave.
    x : Tensor [B, ...]
        Some inputs of that task, two or more.
    """
    if depends_on_others(predict, x):
        return PROTOCOLS["batch"]
    model = getattr(predict, "model", None)
    if not isinstance(model, nn.Module):
        return PROTOCOLS["none"]
    if isinstance(model, FewShotNetwork):
        return PROTOCOLS[model.norm]
    norms = [m for m in model.modules() if isinstance(m, (_BatchNorm, TaskBatchNorm2d))]
    if any(isinstance(m, TaskBatchNorm2d) or m.running_mean is None for m in norms):
        return PROTOCOLS["support"]
    return "running statistics of training" if norms else PROTOCOLS["none"]


def evaluate(
    learner: Learner,
    sampler: TaskSampler,
    n_tasks: int = 600,
    *,
    steps: int | None = None,
    metric: Metric | None = None,
    workers: int | None = None,
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
        (outputs, targets) -> number, such as ``F.mse_loss``; the learner's own by default, and
        if it has none, the accuracy of logits ``[B, N]`` for class indices ``[B]``.
    workers : int, optional
        Tasks at a time, as for :func:`~metalearn_tut.training.meta_train`.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Evaluation
        ``print`` it for "mean ± interval (tasks; protocol)".

    Raises
    ------
    ValueError
        If there are not as many tasks, if ``steps`` is given to a learner that takes none, or
        if there is no metric and accuracy is not defined.

    Examples
    --------
    >>> from metalearn_tut import MAML, tasks
    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> sampler = tasks.from_arrays(x, torch.arange(60) % 3).sampler(ways=3, shots=2, queries=5)
    >>> result = evaluate(MAML(nn.Linear(4, 3), inner_lr=0.1), sampler, n_tasks=50)
    >>> len(result.values), result.steps, result.half_width < 0.1
    (50, 1, True)
    """
    keep_memory()
    n_tasks = check_n_tasks(sampler, n_tasks)
    if steps is not None and not hasattr(learner, "inner_steps"):
        raise ValueError(f"steps={steps}, but {type(learner).__name__} takes no inner steps")
    metric = getattr(learner, "metric", None) if metric is None else metric
    check_function("metric", metric, optional=True)
    bar = progress_bar(n_tasks, unit="task", desc="evaluate", show=progress)
    with bar, workers_of(learner, workers, n_tasks):
        told = {"steps": steps, "metric": metric, "done": bar.update}
        values, finite = task_values(learner, sampler, range(n_tasks), **told)
    used = steps if steps is not None else getattr(learner, "inner_steps", None)
    name = "accuracy" if metric is None else getattr(metric, "__name__", type(metric).__name__)
    bad = n_tasks - int(finite.sum())
    measure = "" if metric is None else content_hash([described(metric)])
    protocol = _protocol(learner, sampler)
    return Evaluation(values.cpu(), repr(sampler), protocol, used, name, bad, measure)


def _protocol(learner: Learner, sampler: TaskSampler) -> str:
    task = sampler[0]
    learner = getattr(learner, "unwatched", learner)  # what is only tried is not counted
    predict = learner.adapt(task.support_x, task.support_y)
    x = task.query_x
    return protocol_of(predict, x if len(x) > 1 else torch.cat([x, task.support_x]))


def check_n_tasks(sampler: TaskSampler, n_tasks: int, name: str = "n_tasks") -> int:
    """The number of tasks as an ``int``, if the sampler has as many."""
    n_tasks = whole_number(name, n_tasks, least=1)
    if hasattr(sampler, "__len__") and n_tasks > len(sampler):
        raise ValueError(f"{name} must be in 1..{len(sampler)}, the tasks there are, got {n_tasks}")
    return n_tasks


def task_values(
    learner: Learner,
    sampler: TaskSampler,
    indices: Sequence[int],
    *,
    steps: int | None = None,
    metric: Metric | None = None,
    done: Callable[[int], object] = int,
) -> tuple[Tensor, Tensor]:
    """The loop behind :func:`evaluate`: of each task its score, and whether its outputs are finite.

    ``done(n)`` is called when n more tasks are.

    Returns
    -------
    values : Tensor [n]
    finite : bool Tensor [n]
    """
    options = {} if steps is None else {"steps": steps}

    def row(task: Task) -> tuple[Tensor, bool]:
        predict = learner.adapt(task.support_x, task.support_y, **options)
        outputs = predict(task.query_x)
        return score(metric, outputs, task.query_y.to(outputs.device)), is_finite(outputs)

    rows = []
    for first in range(0, len(indices), _DRAWN):
        drawn = [sampler[i] for i in indices[first : first + _DRAWN]]
        rows += each(row, drawn)
        done(len(drawn))
    values, finite = zip(*rows, strict=True)
    return torch.stack(values), torch.tensor(finite)
