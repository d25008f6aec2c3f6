"""Checkpoints: one safetensors file each, written whole or not at all.

Tensors are those of :func:`metalearn_tut.learners.state_of`, ``optimizer.*`` and ``scheduler.*``
(what these two need) and ``history.<name>`` (one number per step); everything else is JSON in the
file's metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.files.cache import atomic_write
from metalearn_tut.files.resume import Resume
from metalearn_tut.files.tensor_file import damaged, read_tensors, write_tensors
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.state import load_state, state_of
from metalearn_tut.training.history import History
from metalearn_tut.training.outer_step import FIRST, OuterStep
from metalearn_tut.training.plan import Memory

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.json"
PRUNED = "pruned.safetensors"
_SERIES, _LISTS = ("loss", "accuracy"), ("validation", "skipped")


def contents(
    learner: Learner, history: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON of a checkpoint from which nothing is gone on with.

    ``history`` has the lists ``loss`` and ``accuracy``, one number per step, and the JSON lists
    ``validation`` and ``skipped``.
    """
    tensors, history = dict(state_of(learner)), history or {}
    for name in _SERIES:
        tensors[f"history.{name}"] = torch.tensor(history.get(name, []), dtype=torch.float64)
    return tensors, {name: history.get(name, []) for name in _LISTS}


def save(
    path: str | os.PathLike[str],
    learner: Learner,
    *,
    step: int = 0,
    history: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint that can be loaded, but not resumed from.

    Parameters
    ----------
    path : path
        The file; it is replaced at once, or stays as it is if writing fails.
    learner : Learner
        Its whole state is kept: see :func:`metalearn_tut.learners.state_of`.
    step : int, default 0
        Steps done.
    history : mapping, optional
        See :func:`contents`.
    run : mapping, optional
        ``{"training": {...}, "config": {...}}``: what was run, as JSON.

    Raises
    ------
    OSError
        If the file cannot be written (full disk, no permission).
    """
    tensors, state = contents(learner, history)
    write_tensors(path, tensors, {**state, "step": step, "run": run or {}})


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a checkpoint file, and its JSON.

    That is ``step``, ``validation``, ``skipped`` and ``run``; in one that can be resumed from
    also ``memory``, ``optimizer`` and ``scheduler``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or not a checkpoint.
    """
    tensors, state = read_tensors(path)
    if not {"step", "run", "validation"} <= state.keys():
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
    kept = {n: t for n, t in tensors.items() if not n.startswith((*FIRST, "history."))}
    state = {name: state[name] for name in ("step", "run", *_LISTS)}
    state["validation"] = [v for v in state["validation"] if v["step"] == state["step"]]
    write_tensors(path, kept, state)


class RunFolder:
    """Where a run keeps its last checkpoint and its best; without a path only the best, in memory.

    Parameters
    ----------
    path : path or None
        The folder.
    learner : Learner
    outer : OuterStep
        Whose state the next step depends on.
    run : mapping
        See :func:`metalearn_tut.training.checkpoint.save`; two runs with the same are one.
    memory : Memory, optional
        The aggregate, if it remembers earlier steps.
    restores_best : bool, default True
        Whether the learner is to be at its best validation in the end.
    writes : bool, default True
        False in all processes but one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        learner: Learner,
        outer: OuterStep,
        run: Mapping[str, Any],
        *,
        memory: Memory | None = None,
        restores_best: bool = True,
        writes: bool = True,
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.learner, self.outer, self.memory = learner, outer, memory
        self.restores_best, self.writes = restores_best, writes
        last, best = (None if path is None else self.path / name for name in (LAST, BEST))
        self.last = Resume(last, run, beside=(BEST, HISTORY), writes=writes)
        self.best = Resume(best, run, writes=writes)
        self._best: dict[str, Tensor] = {}

    def begin(self, resume: bool) -> tuple[int, dict[str, Any]]:
        """Steps done and history: those of the last checkpoint, or none; so is the memory."""
        kept = self.last.begin(resume)
        if kept is None:
            if self.path is not None and self.writes:
                # a best one alone is what was left of a run that just began
                self.best.file.unlink(missing_ok=True)
            return 0, {}
        tensors, state = kept
        if "optimizer" not in state:
            raise ValueError(f"cannot resume {self.last.file}: it holds no optimizer state")
        if self.restores_best and state["validation"]:
            self._best = read(self.best.file)[0]
        load_state(self.last.file, tensors, self.learner)
        self.outer.load(tensors, state)
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        history = {name: tensors[f"history.{name}"].tolist() for name in _SERIES}
        return state["step"], {**history, **{name: state[name] for name in _LISTS}}

    def keep(self, step: int, history: History, improved: bool) -> None:
        """Write the last checkpoint, after the best: a run resumed between them writes both."""
        if improved and self.restores_best:
            self._best = {n: t.detach().clone() for n, t in state_of(self.learner).items()}
        if self.path is None:
            return
        tensors, state = contents(self.learner, vars(history))
        needed, rest = self.outer.state()
        memory = {} if self.memory is None else self.memory.state_dict()
        whole = {**tensors, **needed}, {**state, **rest, "memory": memory}
        if improved:
            self.best.keep(step, *whole)
        self.last.keep(step, *whole)

    def finish(self, history: History) -> None:
        """Write the history for people and plots; the learner is then at its best, if asked for."""
        if self.path is not None and self.writes:
            with atomic_write(self.path / HISTORY) as temporary:
                temporary.write_text(json.dumps(vars(history)))
        if self._best:
            load_state(self.best.file or BEST, self._best, self.learner)
