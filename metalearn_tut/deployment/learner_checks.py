"""Which learners can become a file that learns: what cannot is refused before work begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.bilevel.checks import ways_of
from metalearn_tut.checks import as_integer, check_count
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.protonet import ProtoNet
from metalearn_tut.scoring import is_elementwise

OPSETS = range(17, 21)
"""Those that files were tested with."""


def checked_path(name: str, path: str | os.PathLike[str]) -> Path:
    """A path that ends in ``.onnx``, in a folder that can be written to."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{name} must end in .onnx, got {path}")
    folder = path.absolute().parent
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise OSError(f"{name}: cannot write {path}")
    return path


def check_opset(opset: int) -> None:
    """Refuse opsets without the operators that a gradient needs, and such as were not tried."""
    if as_integer(opset) not in OPSETS:
        raise ValueError(
            f"opset must be in {OPSETS[0]}..{OPSETS[-1]}, got {opset!r}: every runtime since "
            "onnxruntime 1.12 reads 17"
        )


def check_learner(learner: Any) -> None:
    """Refuse what has no core to trace, or learns from something else than labels."""
    kind = type(learner).__name__
    if not isinstance(learner, Learner) or not hasattr(learner, "working"):
        raise TypeError(
            f"learner must be a learner of this package, with working() and task_network(), got "
            f"{kind}: of a network alone export_network makes a file"
        )
    for name, p in learner.named_parameters():
        if p.dtype != torch.float32:
            raise ValueError(f"learner must be in float32 (learner.float()), {name} is {p.dtype}")
    student = getattr(learner, "student", learner)
    loss = getattr(student, "inner_loss", None)
    if is_elementwise(loss):
        raise ValueError(
            f"{kind} cannot become a file that learns: its loss compares numbers, and the file "
            "takes labels 0..ways-1"
        )


def checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one input, of whole numbers."""
    shape = tuple(map(as_integer, input_shape))
    if not shape or any(size is None or size < 1 for size in shape):
        raise ValueError(
            f"input_shape must be the shape of one input, such as (1, 28, 28), got {input_shape!r}"
        )
    return shape


def ways_for(learner: Learner, ways: int | None) -> int:
    """The number of classes: as told where the learner is free to have any, or as trained."""
    student = getattr(learner, "student", learner)
    by_distance = isinstance(student, ProtoNet)
    free = by_distance or getattr(student, "zero_head", False)
    told = getattr(student.model, "ways", None)
    trained = told if by_distance else ways_of(student.model, parameters_of(student.model))
    if ways is None:
        if trained is None:
            raise ValueError(
                f"ways must be given: {type(student.model).__name__} does not tell how many it has"
            )
        return trained
    check_count(ways=ways)
    if not free and trained not in (None, ways):
        raise ValueError(
            f"ways must be {trained}, for which the learner's head was trained, got {ways}: other "
            "numbers need a learner with zero_head=True, or ProtoNet"
        )
    return int(ways)
