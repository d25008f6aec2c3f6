"""Which learners can become a file that learns, and which cannot: said before work begins."""

from __future__ import annotations

import os
from pathlib import Path

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.bilevel.checks import ways_of
from metalearn_tut.learners.learner import Learner


def checked_path(path: str | os.PathLike[str]) -> Path:
    """A path that ends in ``.onnx``, or an error."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"path must end in .onnx, got {path}")
    return path


def ways_for(learner: Learner, ways: int | None) -> int:
    """The number of classes, as told or as trained."""
    trained = ways_of(learner.model, parameters_of(learner.model))
    if ways is None and trained is None:
        raise ValueError("ways must be given")
    return trained if ways is None else ways
