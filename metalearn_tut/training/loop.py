"""One meta-training loop for every learner: progress, checkpoints, exact resume, processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_tut.bilevel import Params
from metalearn_tut.checks import check_count
from metalearn_tut.evaluation.accuracy import task_values
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.state import settings_of
from metalearn_tut.machine import keep_memory
from metalearn_tut.machine.threads import workers_of
from metalearn_tut.scoring import Metric
from metalearn_tut.tasks.sampler import TaskSampler
from metalearn_tut.training.checkpoint import RunFolder
from metalearn_tut.training.history import History
from metalearn_tut.training.outer_step import OuterStep
from metalearn_tut.training.plan import Aggregate, Memory, TrainingPlan
from metalearn_tut.training.processes import Processes

_SEED = 2**40  # of a run's first step: far from the small seeds that people give


class NonFiniteLoss(FloatingPointError):
    """A loss or its gradient became NaN or infinite; the message says where."""


def meta_train(
    learner: Learner,
    sampler: TaskSampler,
    *,
    steps: int,
    tasks_per_step: int = 4,
    outer_lr: float | Mapping[str, float] | None = None,
    schedule: str | None = None,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    aggregate: Aggregate = torch.mean,
    clip: float | None = None,
    validation: TaskSampler | None = None,
    validate_every: int = 500,
    validation_tasks: int = 100,
    metric: Metric | None = None,
    best: str = "highest",
    restore_best: bool = True,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 100,
    config: dict[str, Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> History:
    """Train a learner's meta-parameters in place on an endless list of tasks.

    Step s descends ``aggregate(losses of tasks s·T .. s·T + T - 1)``. Under ``torchrun`` the
    tasks of each step are shared out by rank and the gradients summed, for any
    ``aggregate``: N processes follow the single process to rounding.

    Parameters
    ----------
    learner : Learner
        ``meta_parameters()`` are trained, ``task_losses(batch, progress)`` gives the losses.
        It never sees the tasks' tags. If it draws random numbers, then from PyTorch's global
        generator, which is seeded anew for every step.
    sampler : TaskSampler
        The tasks.
    steps, tasks_per_step : int
        Outer steps, and tasks T of each (all processes together).
    outer_lr : float or mapping of name to float, default 1e-3
        The rate of Adam, the usual optimizer, at the start; ``{"teacher": 1e-3, "student":
        3e-3}`` gives the meta-parameters ``teacher.*`` and ``student.*`` each an Adam of their own.
    schedule : {"cosine", "constant"}, default "cosine"
        How that rate goes on.
    optimizer : torch.optim.Optimizer, optional
        Another one, ``torch.optim.SGD(learner.parameters(), lr=0.1)``. What is no
        meta-parameter (a head that starts at zero, what is frozen) stays as it is, and does not
        decay. Its state is kept in the checkpoints, its class and hyperparameters are compared
        on resume.
    scheduler : LRScheduler, optional
        Made for that optimizer, it goes on by one in every step:
        ``CosineAnnealingLR(optimizer, steps)``. Without one the rate stays as it is.
    aggregate : callable, default mean
        Losses ``[T]`` -> scalar to descend, called once a step, in every process. One that
        remembers earlier steps, as those of :mod:`metalearn_tut.rank_losses`, has
        ``state_dict()``, JSON that goes into the checkpoints, and ``load_state_dict(state)``,
        which with ``{}`` begins anew, as every run does.
    clip : float, optional
        Largest norm of the meta-gradient; with several rates, of the part of each.
    validation : TaskSampler, optional
        Tasks evaluated every ``validate_every`` steps and at the end, the first
        ``validation_tasks`` of them. The best state is kept, in ``best.safetensors`` or in memory.
    metric : callable, optional
        (outputs, targets) -> number, what a validation task is scored by; the learner's own by
        default, or accuracy.
    best : {"highest", "lowest"}
        Which mean of the metric is best: ``"lowest"`` for an error, such as ``F.mse_loss``.
    restore_best : bool, default True
        Leave the learner as it was at its best validation, masks and learned rates included;
        if False, or without validation, as after the last step.
    out : path, optional
        Folder of checkpoints: ``last.safetensors`` every ``save_every`` steps and at the end;
        then also ``history.json``. A checkpoint takes milliseconds.
    resume : bool, default False
        Go on from ``out/last.safetensors`` if it exists. On the same machine the result is
        bitwise that of a run without the interruption, wherever and however it was stopped.
    config : dict, optional
        What the learner was built from, as JSON: stored in the checkpoints (with one that
        :func:`metalearn_tut.runs.build_learner` takes, ``load_learner`` rebuilds the learner);
        a resumed run must bring the same, a learner with the same settings, and tasks of the
        same content.
    workers : int, optional
        Tasks at a time in this process, each in a thread with its share of PyTorch's threads;
        by default as many as those are, up to 4, on a CPU. Results are bitwise those of one
        worker with as many threads to a task; each worker needs memory for its task. A
        learner of your own is asked for one at a time, unless you say otherwise or its class
        has ``in_threads = True``; tasks that draw random numbers, as dropout does, go one
        after another whatever you say; ``engine="vectorised"`` computes all at once anyway.
    progress : bool, default True
        Show a bar with loss, accuracy, tasks per second and time left.

    Returns
    -------
    History
        Of all steps, those before a resume included. A step whose tasks all have weight 0
        in the aggregate changes nothing, and is in ``history.skipped``.

    Raises
    ------
    NonFiniteLoss
        Naming the step, the tasks and the last good checkpoint.
    ValueError
        For arguments out of range, a learner of which nothing is to be trained, an optimizer
        that has not the learner's parameters or needs more than their gradients, validation
        tasks without a metric that suits them, or a checkpoint of another run or architecture.
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    OSError
        If a checkpoint cannot be written; the one before is still there.

    Examples
    --------
    >>> from metalearn_tut import MAML, tasks
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> sampler = tasks.from_arrays(x, y).sampler(ways=3, shots=2, queries=2)
    >>> learner = MAML(torch.nn.Linear(4, 3), inner_lr=0.1)
    >>> history = meta_train(learner, sampler, steps=3, progress=False)
    >>> len(history.loss), len(history.accuracy)
    (3, 3)
    """
    keep_memory()
    (save_every,) = check_count(save_every=save_every)
    plan = TrainingPlan(
        *(sampler, steps, tasks_per_step, aggregate, clip),
        *(validation, validate_every, validation_tasks, metric, best),
    )
    metas = _trainable(learner)
    everything = getattr(learner, "parameters", tuple)()
    given = (outer_lr, schedule, optimizer, scheduler)
    outer, rates = OuterStep.chosen(metas, everything, plan.steps, *given)
    like = next(iter(metas.values()))
    processes = Processes.joined(like.device)
    plan.check_shared(processes.world)
    training = _Training(learner, plan, outer, processes, like.device)
    training.check_validation()
    run = {"training": {**plan.settings(), **rates, "dtype": str(like.dtype)}}
    run |= {"config": _json(config or {}), "learner": settings_of(learner)}
    asked = {"memory": _begun(aggregate), "restores_best": restore_best}
    folder = RunFolder(out, learner, outer, run, writes=processes.rank == 0, **asked)
    first, before = folder.begin(resume)
    history = History(**before, lowest=plan.best == "lowest")
    processes.copy_from_first(list(metas.values()))
    tasks = plan.tasks_per_step
    shown = {"initial": first * tasks, "unit": "task", "desc": "meta-train"}
    bar = progress_bar(plan.steps * tasks, show=progress and processes.rank == 0, **shown)
    gpus = [like.device] if like.is_cuda else []
    own = workers_of(learner, workers, tasks)
    with bar, own, torch.random.fork_rng(gpus), folder.last.explained():
        for step in range(first, plan.steps):
            training.step(step, history)
            done = step + 1
            validated = plan.validates_after(done)
            improved = validated and history.validated(done, training.validation())
            if improved or done % save_every == 0 or done == plan.steps:
                folder.keep(done, history, improved)
            bar.set_postfix(history.recent(), refresh=False)
            bar.update(tasks)
    folder.finish(history)
    return history


def _trainable(learner: Learner) -> Params:
    metas = learner.meta_parameters()
    if not metas:
        raise ValueError("learner has nothing to train: all its parameters are frozen")
    return metas


@dataclass(frozen=True)
class _Training:
    """A plan at work: this process's share of each step and of each validation."""

    learner: Learner
    plan: TrainingPlan
    outer: OuterStep
    processes: Processes
    device: torch.device

    def step(self, step: int, history: History) -> None:
        """Draw the tasks of a step, aggregate their losses, descend."""
        plan, processes = self.plan, self.processes
        _seed(self.device, step * processes.world + processes.rank)
        tasks = range(step * plan.tasks_per_step, (step + 1) * plan.tasks_per_step)
        batch = plan.sampler.tasks(processes.share(tasks)).blind().to(self.device)
        losses, accuracy = self.learner.task_losses(batch, step / plan.steps)
        everyone = processes.gather(losses.detach(), len(tasks))
        _require_finite("loss", everyone, step, tasks)
        weights = _weights(everyone, plan.aggregate)
        if weights.any():
            norm = self.outer.backward(losses, weights, plan.clip, processes)
            _require_finite("meta-gradient", norm.expand(len(tasks)), step, tasks)
            self.outer.advance(getattr(self.learner, "masks", {}))
        else:
            self.outer.skip()
            history.skipped.append(step)
        shares = None if accuracy is None else processes.gather(accuracy, len(tasks))
        history.trained(everyone, shares)

    def validation(self) -> Tensor:
        """Scores ``[n]`` of the validation tasks, shared out and known to every process."""
        n = self.plan.validation_tasks
        return self.processes.gather(self._scores(self.processes.share(range(n))), n)

    def check_validation(self) -> None:
        """Refuse tasks that cannot be scored now, and not hours later."""
        if self.plan.validation is not None:
            self._scores([0])

    def _scores(self, indices: Sequence[int]) -> Tensor:
        metric = self.plan.metric
        metric = getattr(self.learner, "metric", None) if metric is None else metric
        return task_values(self.learner, self.plan.validation, indices, metric=metric)[0]


def _json(config: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise ValueError(f"config must be JSON: {error}") from error


def _begun(aggregate: Aggregate) -> Memory | None:
    """The aggregate with its memory cleared, or None if it has none."""
    if not isinstance(aggregate, Memory):
        return None
    try:
        json.dumps(aggregate.state_dict())
    except TypeError as error:
        raise ValueError(f"the state_dict() of aggregate must be JSON: {error}") from error
    aggregate.load_state_dict({})
    return aggregate


def _weights(losses: Tensor, aggregate: Aggregate) -> Tensor:
    """The weight ``[T]`` of each task: the aggregate's derivative with respect to its loss."""
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(aggregate(leaf), leaf)[0]


def _require_finite(what: str, values: Tensor, step: int, tasks: range) -> None:
    bad = [i for i, fine in zip(tasks, torch.isfinite(values).tolist(), strict=True) if not fine]
    if bad:
        raise NonFiniteLoss(f"{what} is not finite at step {step}, task indices {bad}")


def _seed(device: torch.device, number: int) -> None:
    """Seed this device's generator and the CPU's, and (unlike torch.manual_seed) no others."""
    torch.default_generator.manual_seed(_SEED + number)
    if device.type == "cuda":
        torch.cuda.manual_seed(_SEED + number)
