"""A few-shot task as a value: four tensors, and tags that no learner may read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from metalearn_tut.files.content import content_hash

_TENSORS = ("support_x", "support_y", "query_x", "query_y")


def as_float(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn stored inputs into what a network reads.

    Images are kept as ``uint8`` until this call, which maps 0..255 to 0..1. Floats and
    truth values are only cast. Other integers stay what they are: they are names (of words,
    of nodes), as ``nn.Embedding`` reads them, and no quantities.

    Parameters
    ----------
    x : Tensor
        Any shape; ``uint8`` images, or numbers of any other dtype.
    dtype : torch.dtype, default float32
        The dtype of the result, a floating one, unless ``x`` holds integers.

    Examples
    --------
    >>> as_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    >>> as_float(torch.tensor([0, 255]))
    tensor([  0, 255])
    """
    if x.dtype == torch.uint8:
        return x.to(dtype).div_(255)
    return x.to(dtype) if x.is_floating_point() or x.dtype == torch.bool else x


def check_one_scale(support_x: Tensor, query_x: Tensor) -> None:
    """Refuse two sets of one task of which only one would be scaled from 0..255 to 0..1.

    Raises
    ------
    ValueError
        If one holds ``uint8`` images and the other numbers outside 0..1.
    """
    images = support_x.dtype == torch.uint8, query_x.dtype == torch.uint8
    if images[0] == images[1]:
        return
    names = ("support_x", "query_x") if images[0] else ("query_x", "support_x")
    other = query_x if images[0] else support_x
    if other.numel() and not 0 <= other.min() <= other.max() <= 1:
        raise ValueError(
            f"{names[0]} holds uint8 images, which are scaled to 0..1, and {names[1]} "
            f"{other.dtype} up to {other.max().item():g}, which is taken as it is: pass both as "
            "uint8, or both as floats of one scale"
        )


@dataclass(frozen=True, eq=False)
class Task:
    """One few-shot task: learn from the support set, be judged on the query set.

    Parameters
    ----------
    support_x : Tensor [N·K, ...]
        Support inputs, class after class (for images ``uint8 [N·K, C, H, W]``).
    support_y : Tensor [N·K]
        Labels 0..N-1 (``int64``), or real targets ``[N·K, D]`` for regression.
    query_x : Tensor [N·Q, ...]
        Query inputs, same trailing shape as ``support_x``.
    query_y : Tensor [N·Q]
        Labels or targets of the query set.
    tags : mapping, optional
        Ground truth about the task (its classes, whether it was corrupted) for
        diagnostics. Training hides it from learners: see :meth:`TaskBatch.blind`.

    Raises
    ------
    ValueError
        If a set's inputs and targets differ in length, or the two sets in shape, or if one set
        holds ``uint8`` images and the other floats of another scale.
    TypeError
        If one of the four is not a tensor with a row for each example.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    tags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _TENSORS:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.ndim:
                got = "a single number" if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be a tensor with a row for each example, got {got}")
        for part in ("support", "query"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if len(x) != len(y):
                raise ValueError(
                    f"{part}_x and {part}_y must have one row per example, "
                    f"got {len(x)} inputs and {len(y)} targets"
                )
        if self.support_x.shape[1:] != self.query_x.shape[1:]:
            raise ValueError(
                "support_x and query_x must have the same shape per example, "
                f"got {tuple(self.support_x.shape[1:])} and {tuple(self.query_x.shape[1:])}"
            )
        check_one_scale(self.support_x, self.query_x)

    @property
    def ways(self) -> int:
        """Number of classes N of a classification task; a ValueError for any other task."""
        if self.support_y.is_floating_point() or not self.support_y.numel():
            raise ValueError("a task has ways if support_y holds labels, at least one")
        return int(self.support_y.max()) + 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Task:
        """The same task on another device."""
        return _with_each(self, lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Task:
        """The same task in page-locked memory, from where a copy to a GPU need not wait."""
        return _with_each(self, Tensor.pin_memory)


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """T tasks of one shape, stacked along a new first dimension.

    It can be looped over (``for task in batch``) or used whole by an engine that runs
    all tasks at once.

    Parameters
    ----------
    support_x : Tensor [T, N·K, ...]
    support_y : Tensor [T, N·K]
    query_x : Tensor [T, N·Q, ...]
    query_y : Tensor [T, N·Q]
    tags : sequence of mappings, optional
        One mapping per task, or nothing.

    Raises
    ------
    ValueError
        If the four differ in T, or a set's inputs and targets in their rows.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    tags: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        shapes = {name: list(getattr(self, name).shape) for name in _TENSORS}
        rows = [shapes[f"{part}_{v}"][:2] for part in ("support", "query") for v in "xy"]
        tasks = {row[0] if row else None for row in rows}
        if min(map(len, rows)) < 2 or len(tasks) > 1 or rows[::2] != rows[1::2]:
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(
                "TaskBatch needs [T, rows, ...] of as many tasks T in each tensor, and as many "
                f"rows in inputs and targets, got {shown}"
            )

    @classmethod
    def stack(cls, tasks: Sequence[Task]) -> TaskBatch:
        """Stack tasks of equal shapes and dtypes.

        Raises
        ------
        ValueError
            If there is no task, or two tasks differ in shape or dtype (PyTorch would turn
            ``uint8`` images beside floats into floats of 0..255).
        """
        if not (tasks := list(tasks)):
            raise ValueError("TaskBatch.stack needs at least one task, got none")
        for name in _TENSORS:
            kinds = {f"{t.dtype} {list(t.shape)}" for t in (getattr(task, name) for task in tasks)}
            if len(kinds) > 1:
                raise ValueError(
                    f"tasks of one batch must agree in {name}, got {' and '.join(sorted(kinds))}"
                )
        tensors = {name: torch.stack([getattr(t, name) for t in tasks]) for name in _TENSORS}
        return cls(**tensors, tags=tuple(task.tags for task in tasks))

    def __len__(self) -> int:
        return len(self.support_x)

    def __getitem__(self, i: int) -> Task:
        if not -len(self) <= i < len(self):
            raise IndexError(f"task {i} of a batch of {len(self)} tasks")
        tags = self.tags[i] if self.tags else {}
        return Task(*(getattr(self, name)[i] for name in _TENSORS), tags=tags)

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(len(self)))

    def blind(self) -> TaskBatch:
        """The same batch without tags: what a learner is given."""
        return replace(self, tags=())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TaskBatch:
        """The same batch on another device."""
        return _with_each(self, lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TaskBatch:
        """The same batch in page-locked memory; a ``DataLoader`` with ``pin_memory`` calls it."""
        return _with_each(self, Tensor.pin_memory)


_Tasks = TypeVar("_Tasks", Task, TaskBatch)


def _with_each(tasks: _Tasks, change: Callable[[Tensor], Tensor]) -> _Tasks:
    """The same with each of its four tensors changed."""
    return replace(tasks, **{name: change(getattr(tasks, name)) for name in _TENSORS})


def tasks_hash(tasks: Iterable[Task]) -> str:
    """A short name for what learners see of these tasks: their tensors."""
    return content_hash(
        part for t in tasks for part in (t.support_x, t.support_y, t.query_x, t.query_y)
    )
