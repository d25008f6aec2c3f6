"""One meta-training loop for every learner: progress, checkpoints, exact resume, processes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.checks import check_choice, whole_number
from metalearn_tut.evaluation.accuracy import check_n_tasks, task_values
from metalearn_tut.files.content import described
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.state import settings_of
from metalearn_tut.scoring import Metric, check_function
from metalearn_tut.tasks.sampler import TaskSampler
from metalearn_tut.training.checkpoint import Memory, RunFolder
from metalearn_tut.training.history import History
from metalearn_tut.training.outer_rates import SCHEDULES, parameter_groups
from metalearn_tut.training.processes import Processes

Aggregate = Callable[[Tensor], Tensor]
_COMPARED = (
    *("sampler", "steps", "tasks_per_step", "outer_lr", "schedule", "aggregate", "clip"),
    *("validation", "validate_every", "validation_tasks", "metric", "best"),
)
_SEED = 2**40  # of a run's first step: far from the small seeds that people give


class NonFiniteLoss(FloatingPointError):
    """A loss or its gradient became NaN or infinite; the message says where."""


def meta_train(
    learner: Learner,
    sampler: TaskSampler,
    *,
    steps: int,
    tasks_per_step: int = 4,
    outer_lr: float | Mapping[str, float] = 1e-3,
    schedule: str = "cosine",
    aggregate: Aggregate = torch.mean,
    clip: float | None = None,
    validation: TaskSampler | None = None,
    validate_every: int = 500,
    validation_tasks: int = 100,
    metric: Metric | None = None,
    best: str = "highest",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 100,
    config: dict[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a learner's meta-parameters in place with Adam on an endless list of tasks.

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
        Adam's rate at the start; ``{"teacher": 1e-3, "student": 3e-3}`` gives the
        meta-parameters ``teacher.*`` and ``student.*`` each an Adam of their own.
    schedule : {"cosine", "constant"}
        How the rate goes on.
    aggregate : callable, default mean
        Losses ``[T]`` -> scalar to descend, called once a step, in every process. One that
        remembers earlier steps, as those of :mod:`metalearn_tut.rank_losses`, has
        ``state_dict()``, JSON that goes into the checkpoints, and ``load_state_dict(state)``,
        which with ``{}`` begins anew, as every run does.
    clip : float, optional
        Largest norm of the meta-gradient; with several rates, of the part of each.
    validation : TaskSampler, optional
        Tasks evaluated every ``validate_every`` steps and at the end, the first
        ``validation_tasks`` of them. The best state is kept as ``best.safetensors``.
    metric : callable, optional
        (outputs, targets) -> number, what a validation task is scored by; the learner's own by
        default, or accuracy.
    best : {"highest", "lowest"}
        Which mean of the metric is best: ``"lowest"`` for an error, such as ``F.mse_loss``.
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
    progress : bool, default True
        Show a bar with loss, accuracy, tasks per second and time left.

    Returns
    -------
    History
        Of all steps, those before a resume included. A step whose tasks all have weight 0
        in the aggregate changes nothing, and is in ``history.skipped``. The learner is left
        as it was after the last step;
        ``checkpoint.load(out + "/best.safetensors", learner)`` gets the best.

    Raises
    ------
    NonFiniteLoss
        Naming the step, the tasks and the last good checkpoint.
    ValueError
        For arguments out of range, a learner of which nothing is to be trained, validation
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
    steps, tasks_per_step, validate_every, validation_tasks, save_every = _whole(
        steps=steps,
        tasks_per_step=tasks_per_step,
        validate_every=validate_every,
        validation_tasks=validation_tasks,
        save_every=save_every,
    )
    settings = _compared(locals())
    metas = learner.meta_parameters()
    if not metas:
        raise ValueError("learner has nothing to train: all its parameters are frozen")
    like = next(iter(metas.values()))
    processes = Processes.joined(like.device)
    _check(settings, validation, processes.world)
    metric = getattr(learner, "metric", None) if metric is None else metric
    check_function("metric", metric, optional=True)
    if validation is not None:
        task_values(learner, validation, [0], metric=metric)  # refused now, and not hours later
    run = {"training": {**settings, "dtype": str(like.dtype)}, "config": _json(config or {})}
    run["learner"] = settings_of(learner)
    optimizer = torch.optim.Adam(parameter_groups(metas, outer_lr))
    memory = _begun(aggregate)
    folder = RunFolder(out, learner, optimizer, run, writes=processes.rank == 0, memory=memory)
    first, before = folder.begin(resume)
    history = History(**before, lowest=best == "lowest")
    processes.copy_from_first(list(metas.values()))
    bar = progress_bar(
        steps * tasks_per_step,
        initial=first * tasks_per_step,
        unit="task",
        desc="meta-train",
        show=progress and processes.rank == 0,
    )
    gpus = [like.device] if like.device.type == "cuda" else []
    with bar, torch.random.fork_rng(gpus), _explained(folder):
        for step in range(first, steps):
            _seed(like.device, step * processes.world + processes.rank)
            tasks = range(step * tasks_per_step, (step + 1) * tasks_per_step)
            batch = sampler.tasks(processes.share(tasks)).blind().to(like.device)
            losses, accuracy = learner.task_losses(batch, step / steps)
            everyone = processes.gather(losses.detach(), len(tasks))
            _require_finite("loss", everyone, step, tasks)
            weights = _weights(everyone, aggregate)
            if weights.any():
                norm = _set_gradients(optimizer, losses, weights, clip, processes)
                _require_finite("meta-gradient", norm.expand(len(tasks)), step, tasks)
                for group in optimizer.param_groups:
                    group["lr"] = group["outer_lr"] * SCHEDULES[schedule](step, steps)
                optimizer.step()
            else:
                history.skipped.append(step)
            shares = None if accuracy is None else processes.gather(accuracy, len(tasks))
            history.trained(everyone, shares)
            done, improved = step + 1, False
            if validation is not None and (done % validate_every == 0 or done == steps):
                values = _validate(learner, validation, validation_tasks, metric, processes)
                improved = history.validated(done, values)
            if done % save_every == 0 or done == steps or improved:
                folder.keep(done, vars(history), improved)
            bar.set_postfix(history.recent(), refresh=False)
            bar.update(len(tasks))
    folder.finish(vars(history))
    return history


def _whole(**counts: int) -> list[int]:
    """Counts of any library's integers as ``int``, each at least 1."""
    return [whole_number(name, count, least=1) for name, count in counts.items()]


def _compared(arguments: dict[str, Any]) -> dict[str, Any]:
    """What two runs must have in common to be one, as JSON."""
    return {n: described(v) for n, v in arguments.items() if n in _COMPARED}


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


def _check(settings: dict[str, Any], validation: TaskSampler | None, world: int) -> None:
    check_choice("best", settings["best"], ("highest", "lowest"))
    if (clip := settings["clip"]) is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be positive, got {clip}")
    check_choice("schedule", settings["schedule"], SCHEDULES)
    if validation is not None:
        check_n_tasks(validation, settings["validation_tasks"], "validation_tasks")
    for name in ("tasks_per_step", "validation_tasks"):
        if settings[name] < world:
            raise ValueError(f"{name}={settings[name]} is fewer than the {world} processes")


def _weights(losses: Tensor, aggregate: Aggregate) -> Tensor:
    """The weight ``[T]`` of each task: the aggregate's derivative with respect to its loss."""
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(aggregate(leaf), leaf)[0]


def _set_gradients(
    optimizer: torch.optim.Adam,
    losses: Tensor,
    weights: Tensor,
    clip: float | None,
    processes: Processes,
) -> Tensor:
    """Set the gradient of the aggregated losses; returns its norm, before clipping.

    Every process knows the weights of all tasks; each adds its own tasks' share.
    """
    groups = [group["params"] for group in optimizer.param_groups]
    metas = [p for group in groups for p in group]
    for p in metas:
        p.grad = torch.zeros_like(p)
    torch.autograd.backward(losses, weights[processes.rank :: processes.world])
    processes.sum_in_place([p.grad for p in metas])
    largest = math.inf if clip is None else clip
    return torch.stack([torch.nn.utils.clip_grad_norm_(g, largest) for g in groups]).norm()


def _validate(
    learner: Learner, sampler: TaskSampler, n: int, metric: Metric | None, processes: Processes
) -> Tensor:
    """Scores ``[n]`` of the first n tasks, shared out and known to every process."""
    values, _ = task_values(learner, sampler, processes.share(range(n)), metric=metric)
    return processes.gather(values, n)


def _require_finite(what: str, values: Tensor, step: int, tasks: range) -> None:
    bad = [i for i, fine in zip(tasks, torch.isfinite(values).tolist(), strict=True) if not fine]
    if bad:
        raise NonFiniteLoss(f"{what} is not finite at step {step}, task indices {bad}")


@contextmanager
def _explained(folder: RunFolder) -> Iterator[None]:
    """Say of a run that stops what it can be resumed from."""
    try:
        yield
    except NonFiniteLoss as error:
        raise NonFiniteLoss(f"{error}; {folder.kept()}") from None
    except KeyboardInterrupt:
        how = "; resume=True (--resume) goes on from it" if folder.step else ""
        raise KeyboardInterrupt(f"training was stopped; {folder.kept()}{how}") from None


def _seed(device: torch.device, number: int) -> None:
    """Seed this device's generator and the CPU's, and (unlike torch.manual_seed) no others."""
    torch.default_generator.manual_seed(_SEED + number)
    if device.type == "cuda":
        torch.cuda.manual_seed(_SEED + number)
