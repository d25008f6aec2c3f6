"""Checkpoints: one safetensors file each, written whole or not at all.

Tensors are those of :func:`metalearn_tut.learners.state_of`, ``adam.<key>.<name>`` (the optimizer)
and ``history.<name>`` (one number per step); everything else is JSON in the file's metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metalearn_tut.files.cache import atomic_write, remove_partial
from metalearn_tut.files.tensor_file import check_same_run, damaged, read_tensors, write_tensors
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.state import load_state, state_of

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.json"
PRUNED = "pruned.safetensors"
_ADAM = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps per tensor
_SERIES, _LISTS = ("loss", "accuracy"), ("validation", "skipped")


@runtime_checkable
class Memory(Protocol):
    """What an aggregate of task losses has if it remembers earlier steps."""

    def state_dict(self) -> dict[str, Any]:
        """All that its next call depends on, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; from ``{}`` begin anew."""


def save(
    path: str | os.PathLike[str],
    learner: Learner,
    *,
    optimizer: torch.optim.Adam | None = None,
    step: int = 0,
    history: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    path : path
        The file; it is replaced at once, or stays as it is if writing fails.
    learner : Learner
        Its whole state is kept: see :func:`metalearn_tut.learners.state_of`.
    optimizer : Adam, optional
        Whose state the next step depends on; without it the file cannot be resumed from.
    step : int, default 0
        Steps done.
    history : mapping, optional
        Lists ``loss`` and ``accuracy`` with one number per step, and the JSON lists
        ``validation`` and ``skipped``.
    memory : mapping, optional
        The aggregate's ``state_dict()``.
    run : mapping, optional
        ``{"training": {...}, "config": {...}}``: what was run, as JSON.

    Raises
    ------
    OSError
        If the file cannot be written (full disk, no permission).
    """
    tensors = dict(state_of(learner))
    for name, p in learner.meta_parameters().items() if optimizer is not None else ():
        tensors |= {f"adam.{key}.{name}": t for key, t in _moments(optimizer, p).items()}
    history = history or {}
    for name in _SERIES:
        tensors[f"history.{name}"] = torch.tensor(history.get(name, []), dtype=torch.float64)
    lists = {name: history.get(name, []) for name in _LISTS}
    state = {"step": step, **lists, "memory": memory or {}, "run": run or {}}
    write_tensors(path, tensors, state)


def _moments(optimizer: torch.optim.Adam, p: Tensor) -> dict[str, Tensor]:
    """What Adam keeps of ``p``; before its first step, which may be skipped, zeros."""
    zeros = {"step": torch.tensor(0.0), **{key: torch.zeros_like(p) for key in _ADAM[1:]}}
    return {key: optimizer.state.get(p, zeros)[key] for key in _ADAM}


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a checkpoint file, and its JSON.

    That is ``step``, ``validation``, ``skipped``, ``memory`` and ``run``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or not a checkpoint.
    """
    tensors, state = read_tensors(path)
    if "step" not in state:
        raise damaged(path, "checkpoint")
    return tensors, state


def load(path: str | os.PathLike[str], learner: Learner) -> dict[str, Any]:
    """Put a checkpoint's state into a learner, masks included; returns the file's JSON.

    Parameters
    ----------
    path : path
        A checkpoint file.
    learner : Learner
        Of the same architecture; it stays as it is if anything is wrong.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged, or of another architecture: the message names the
        first tensor that differs.
    """
    tensors, state = read(path)
    load_state(path, tensors, learner)
    return state


def restore(
    path: str | os.PathLike[str],
    learner: Learner,
    optimizer: torch.optim.Adam,
    run: Mapping[str, Any],
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Everything that the next step depends on.

    Returns the steps done, the history, and the aggregate's memory.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load`; also if another ``run`` wrote the file, naming what differs, or if it
        holds no optimizer state.
    """
    tensors, state = read(path)
    check_same_run(path, state["run"], json.loads(json.dumps(run)))
    load_state(path, tensors, learner)
    if not any(name.startswith("adam.") for name in tensors):
        raise ValueError(f"cannot resume {path}: it holds no optimizer state")
    for name, p in learner.meta_parameters().items():
        kept = {key: tensors[f"adam.{key}.{name}"] for key in _ADAM}
        # like p also in memory layout, on which the last bit of an update may depend
        moments = {key: torch.empty_like(p).copy_(kept[key]).detach() for key in _ADAM[1:]}
        optimizer.state[p] = {"step": kept["step"], **moments}
    history = {name: tensors[f"history.{name}"].tolist() for name in _SERIES}
    lists = {name: state.get(name, []) for name in _LISTS}
    return state["step"], {**history, **lists}, state.get("memory", {})


def find(run: str | os.PathLike[str]) -> Path:
    """The file that a run is known by: its best checkpoint, else its last, or what pruning left.

    A file is itself.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    run = Path(run).expanduser()
    for path in (run, run / BEST, run / LAST, run / PRUNED):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no run at {run}: it must be a checkpoint file, or a folder with {BEST}, {LAST} or "
        f"{PRUNED}"
    )


def export(run: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write what is needed to use a trained run, and no more: weights and configuration.

    Parameters
    ----------
    run : path
        A folder of checkpoints or one of them, as for :func:`find`.
    path : path
        The file to write; it can be loaded, but not resumed from.
    """
    source = find(run)
    tensors, state = read(source)
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    kept = {n: t for n, t in tensors.items() if not n.startswith(("adam.", "history."))}
    state.pop("memory", None)
    state["validation"] = [v for v in state["validation"] if v["step"] == state["step"]]
    write_tensors(path, kept, state)


class RunFolder:
    """Where a run keeps its best and its last checkpoint; without a path it keeps nothing.

    Parameters
    ----------
    path : path or None
        The folder.
    learner, optimizer, run
        What every checkpoint holds: see :func:`save`.
    writes : bool
        False in all processes but one.
    memory : Memory, optional
        The aggregate, if it remembers earlier steps.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        learner: Learner,
        optimizer: torch.optim.Adam,
        run: Mapping[str, Any],
        writes: bool,
        memory: Memory | None = None,
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.learner, self.optimizer, self.run, self.writes = learner, optimizer, run, writes
        self.memory = memory
        self.step: int | None = None

    def begin(self, resume: bool) -> tuple[int, dict[str, Any]]:
        """Steps done and history: those of the last checkpoint, or none; so is the memory."""
        if self.path is None:
            return 0, {}
        last, best = self.path / LAST, self.path / BEST
        if not resume and (last.exists() or best.exists()):
            raise holds_a_run(self.path)
        if self.writes:
            make_ready(self.path)
        if not last.exists():  # a best one alone is what was left of a run that just began
            if self.writes:
                best.unlink(missing_ok=True)
            return 0, {}
        self.step, history, memory = restore(last, self.learner, self.optimizer, self.run)
        if self.memory is not None:
            self.memory.load_state_dict(memory)
        return self.step, history

    def keep(self, step: int, history: Mapping[str, Any], improved: bool) -> None:
        """Write the last checkpoint, after the best: a run resumed between them writes both."""
        if self.path is None:
            return
        if self.writes:
            memory = None if self.memory is None else self.memory.state_dict()
            state = {"optimizer": self.optimizer, "step": step, "history": history}
            state |= {"memory": memory, "run": self.run}
            if improved:
                save(self.path / BEST, self.learner, **state)
            save(self.path / LAST, self.learner, **state)
        self.step = step

    def finish(self, history: Mapping[str, Any]) -> None:
        """Write the history of a run that has ended, for people and plots."""
        if self.path is not None and self.writes:
            with atomic_write(self.path / HISTORY) as temporary:
                temporary.write_text(json.dumps(history))

    def kept(self) -> str:
        """What a run that stops now can be resumed from, in words."""
        if self.step is None:
            return "no checkpoint was saved"
        return f"last good checkpoint: {self.path / LAST} (step {self.step})"


def holds_a_run(folder: Path) -> FileExistsError:
    """The error for a folder whose run was not to be gone on with."""
    return FileExistsError(
        f"{folder} holds a run: go on with it (resume=True, on the command line --resume) or "
        "name another folder"
    )


def make_ready(folder: Path) -> None:
    """A folder that can be written to, without what a killed process left half written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {folder}: permission denied")
    for name in (BEST, LAST, HISTORY):
        remove_partial(folder / name)
