"""One meta-training loop for every learner: progress, checkpoints, exact resume, processes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from metalearn_tut.bilevel import Params
from metalearn_tut.evaluation import evaluate
from metalearn_tut.learner import Learner
from metalearn_tut.tasks.cache import atomic_write
from metalearn_tut.tasks.sampler import TaskSampler

Aggregate = Callable[[Tensor], Tensor]
_MOMENTS = ("exp_avg", "exp_avg_sq")  # what Adam keeps per tensor, beside its step count


@dataclass
class History:
    """What training recorded: per step the mean loss and accuracy, per check the validation."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)

    def best(self) -> dict[str, float]:
        """The validation entry with the highest mean."""
        return max(self.validation, key=lambda entry: entry["mean"])


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite; the message says where."""


def cosine(step: int, steps: int) -> float:
    """From 1 at step 0 down to 0 at the end along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "cosine": cosine,
    "constant": lambda step, steps: 1.0,
}


def meta_train(
    learner: Learner,
    sampler: TaskSampler,
    *,
    steps: int,
    tasks_per_step: int = 4,
    outer_lr: float = 1e-3,
    schedule: str = "cosine",
    aggregate: Aggregate = torch.mean,
    clip: float | None = None,
    validation: TaskSampler | None = None,
    validate_every: int = 500,
    validation_tasks: int = 100,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 100,
    config: dict[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a learner's meta-parameters in place with Adam on an endless list of tasks.

    Under ``torchrun`` the tasks of each step are shared out by rank and the gradients
    summed, for any ``aggregate``: N processes follow the single process to rounding.

    Parameters
    ----------
    learner : Learner
        ``meta_parameters()`` are trained, ``task_losses(batch, progress)`` gives the losses.
        It never sees the tasks' tags.
    sampler : TaskSampler
        Step s uses tasks ``s·tasks_per_step`` onwards.
    steps, tasks_per_step : int
        Outer steps, and tasks T averaged in each (all processes together).
    outer_lr : float, default 1e-3
        Adam's rate at the start.
    schedule : {"cosine", "constant"}
        How the rate goes on.
    aggregate : callable, default mean
        Losses ``[T]`` -> scalar to descend.
    clip : float, optional
        Largest norm of the meta-gradient.
    validation : TaskSampler, optional
        Tasks evaluated every ``validate_every`` steps and at the end, the first
        ``validation_tasks`` of them. The best state is kept as ``best.safetensors``.
    out : path, optional
        Folder of checkpoints: ``last.safetensors`` every ``save_every`` steps and at the end,
        and ``history.json``.
    resume : bool, default False
        Go on from ``out/last.safetensors`` if it exists. The result is bitwise that of a run
        without the interruption.
    config : dict, optional
        Stored in the checkpoints; a resumed run must bring the same.
    progress : bool, default True
        Show a bar with loss, accuracy, tasks per second and time left.

    Returns
    -------
    History

    Raises
    ------
    NonFiniteLoss
        Naming the step, the tasks and the last good checkpoint.
    ValueError
        For arguments out of range, or a checkpoint of another run or architecture.
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    """
    _check(steps, tasks_per_step, outer_lr, schedule)
    metas = learner.meta_parameters()
    device = next(iter(metas.values())).device
    rank, world = _processes(device)
    if tasks_per_step < world:
        raise ValueError(f"tasks_per_step={tasks_per_step} is fewer than the {world} processes")
    optimizer = torch.optim.Adam(metas.values(), lr=outer_lr)
    run = {
        "steps": steps,
        "tasks_per_step": tasks_per_step,
        "outer_lr": outer_lr,
        "schedule": schedule,
        "clip": clip,
        "sampler": repr(sampler),
        **(config or {}),
    }
    folder = None if out is None else Path(out)
    first, history = 0, History()
    if folder is not None and (folder / "last.safetensors").exists():
        if not resume:
            raise FileExistsError(f"{folder} holds a run: pass resume=True or another out")
        first, history = _resume(folder / "last.safetensors", metas, optimizer, run)
    bar = _bar(steps, tasks_per_step, first, progress and rank == 0)
    for step in range(first, steps):
        mine = range(step * tasks_per_step + rank, (step + 1) * tasks_per_step, world)
        batch = sampler.tasks(mine).blind().to(device)
        losses, accuracy = learner.task_losses(batch, step / steps)
        everyone = _gather(losses.detach(), rank, world, tasks_per_step)
        if not torch.isfinite(everyone).all():
            raise NonFiniteLoss(_non_finite(step, everyone, tasks_per_step, folder))
        _descend(losses, everyone, aggregate, metas, optimizer, rank, world, clip)
        for group in optimizer.param_groups:
            group["lr"] = outer_lr * SCHEDULES[schedule](step, steps)
        optimizer.step()
        history.loss.append(everyone.mean().item())
        if accuracy is not None:
            shares = _gather(accuracy, rank, world, tasks_per_step)
            history.accuracy.append(shares.mean().item())
        done = step + 1
        improved = False
        if validation is not None and (done % validate_every == 0 or done == steps):
            improved = _validate(learner, validation, validation_tasks, done, history)
        if (
            folder is not None
            and rank == 0
            and (done % save_every == 0 or done == steps or improved)
        ):
            for name in ["last", "best"] if improved else ["last"]:
                save(folder / f"{name}.safetensors", metas, optimizer, done, history, run)
            _write_json(folder / "history.json", asdict(history))
        bar.update(tasks_per_step)
        if done % 10 == 0 or done == steps:
            bar.set_postfix(_recent(history), refresh=False)
    bar.close()
    return history


def _check(steps: int, tasks_per_step: int, outer_lr: float, schedule: str) -> None:
    for name, value in (("steps", steps), ("tasks_per_step", tasks_per_step)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < outer_lr < math.inf:
        raise ValueError(f"outer_lr must be positive, got {outer_lr}")
    if schedule not in SCHEDULES:
        allowed = ", ".join(map(repr, SCHEDULES))
        raise ValueError(f"schedule must be one of {allowed}, got {schedule!r}")


def _processes(device: torch.device) -> tuple[int, int]:
    """Rank and number of processes; joins the group that ``torchrun`` announced."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _gather(values: Tensor, rank: int, world: int, total: int) -> Tensor:
    """All ranks' per-task values ``[T]`` in task order."""
    everyone = values.new_zeros(total)
    everyone[rank::world] = values
    if world > 1:
        dist.all_reduce(everyone)
    return everyone


def _descend(
    losses: Tensor,
    everyone: Tensor,
    aggregate: Aggregate,
    metas: Params,
    optimizer: torch.optim.Optimizer,
    rank: int,
    world: int,
    clip: float | None,
) -> None:
    """Set the gradient of ``aggregate(all losses)``.

    The aggregate's derivative with respect to each loss is the weight of that task, which
    every process knows after the losses were gathered; each adds its own tasks' share.
    """
    leaf = everyone.clone().requires_grad_()
    (weights,) = torch.autograd.grad(aggregate(leaf), leaf)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(losses, weights[rank::world])
    for p in metas.values():
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if world > 1:
        flat = torch.cat([p.grad.flatten() for p in metas.values()])
        dist.all_reduce(flat)
        parts = flat.split([p.numel() for p in metas.values()])
        for p, part in zip(metas.values(), parts, strict=True):
            p.grad.copy_(part.view_as(p))
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(metas.values(), clip)


def _validate(
    learner: Learner, sampler: TaskSampler, n_tasks: int, step: int, history: History
) -> bool:
    """Record the validation accuracy; True if it is the best so far."""
    result = evaluate(learner, sampler, n_tasks)
    before = max((entry["mean"] for entry in history.validation), default=-math.inf)
    history.validation.append({"step": step, "mean": result.mean, "half_width": result.half_width})
    return result.mean > before


def _recent(history: History, window: int = 100) -> dict[str, str]:
    shown = {"loss": history.loss, "accuracy": history.accuracy}
    return {n: f"{sum(v[-window:]) / len(v[-window:]):.3f}" for n, v in shown.items() if v}


def _bar(steps: int, tasks_per_step: int, first: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=steps * tasks_per_step,
        initial=first * tasks_per_step,
        unit="task",
        desc="meta-train",
        disable=not show,
    )


def _non_finite(step: int, losses: Tensor, tasks_per_step: int, folder: Path | None) -> str:
    bad = (~torch.isfinite(losses)).nonzero().flatten() + step * tasks_per_step
    last = folder / "last.safetensors" if folder is not None else None
    kept = f"last good checkpoint: {last}" if last and last.exists() else "no checkpoint was saved"
    return f"loss is not finite at step {step}, task indices {bad.tolist()}; {kept}"


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value))


def save(
    path: Path,
    metas: Params,
    optimizer: torch.optim.Optimizer | None = None,
    step: int = 0,
    history: History | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint: one safetensors file, whole or not at all.

    Tensors are named ``meta.<name>`` and ``adam.<key>.<name>``; the step, history and run
    are JSON in the file's metadata.
    """
    from safetensors.torch import save as to_bytes

    tensors = {f"meta.{n}": p.detach().cpu().contiguous() for n, p in metas.items()}
    if optimizer is not None:
        for name, p in metas.items():
            for key in ("step", *_MOMENTS):
                tensors[f"adam.{key}.{name}"] = optimizer.state[p][key].cpu().contiguous()
    state = {"step": step, "history": asdict(history or History()), "run": run or {}}
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, {"state": json.dumps(state)}))


def load(path: str | os.PathLike[str], metas: Params) -> dict[str, Any]:
    """Copy a checkpoint's meta-parameters into ``metas``; returns its JSON state.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, not a checkpoint, or one of another architecture: the
        message names the first tensor that differs.
    """
    tensors, state = read(path)
    saved = {n.removeprefix("meta."): t for n, t in tensors.items() if n.startswith("meta.")}
    for name in sorted(saved.keys() | metas.keys()):
        here = tuple(metas[name].shape) if name in metas else "nothing"
        there = tuple(saved[name].shape) if name in saved else "nothing"
        if here != there:
            raise ValueError(
                f"{path} is a checkpoint of another architecture: {name} is {there} in the "
                f"file and {here} in the learner"
            )
    with torch.no_grad():
        for name, p in metas.items():
            p.copy_(saved[name])
    return state


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a checkpoint file and its JSON state."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(str(path), "pt") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of this package, or damaged") from error


def _resume(
    path: Path, metas: Params, optimizer: torch.optim.Optimizer, run: dict[str, Any]
) -> tuple[int, History]:
    """Load everything that the next step depends on."""
    state = load(path, metas)
    for name in sorted(state["run"].keys() | run.keys()):
        if json.loads(json.dumps(run.get(name))) != state["run"].get(name):
            raise ValueError(
                f"cannot resume {path}: {name} was {state['run'].get(name)!r}, "
                f"now {run.get(name)!r}"
            )
    tensors, _ = read(path)
    for name, p in metas.items():
        moments = {key: tensors[f"adam.{key}.{name}"].to(p.device) for key in _MOMENTS}
        optimizer.state[p] = {"step": tensors[f"adam.step.{name}"], **moments}
    return state["step"], History(**state["history"])
