"""From a learner to an ONNX file that learns: support set and query in, logits out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metalearn_tut.deployment.learner_checks import checked_path, ways_for
from metalearn_tut.deployment.learner_proof import Proof
from metalearn_tut.deployment.onnx_model import Session, model_bytes, require_extra
from metalearn_tut.deployment.task_functions import TaskFunctions
from metalearn_tut.deployment.traced import traced
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.learners.learner import Learner

SUPPORT_X, SUPPORT_Y, QUERY_X, LOGITS = "support_x", "support_y", "query_x", "logits"


@dataclass(frozen=True, repr=False)
class ExportedLearner:
    """What :func:`export_learner` wrote, and how it compares with the learner.

    Parameters
    ----------
    path : Path
        The file.
    size_bytes : int
        Its size.
    difference : float
        Largest difference between its logits and the learner's, as a share of the largest.
    """

    path: Path
    size_bytes: int
    difference: float

    def __repr__(self) -> str:
        return (
            f"ExportedLearner({self.path}: {self.size_bytes:,} bytes, logits equal to "
            f"{self.difference:.0e} of the largest)"
        )


def export_learner(
    learner: Learner,
    path: str | os.PathLike[str],
    input_shape: Sequence[int],
    *,
    ways: int | None = None,
    steps: int | None = None,
    max_shots: int | None = None,
    uint8: bool = False,
    seed: int = 0,
) -> ExportedLearner:
    """Write a learner as an ONNX file that learns, if onnxruntime learns the same from it."""
    path = checked_path(path)
    ways = ways_for(learner, ways)
    require_extra()
    options = {} if steps is None else {"steps": steps}
    own = learner.working(training=False)
    functions = TaskFunctions(own, ways, options | {"ways": ways})
    shots = 3 if max_shots is None else max_shots
    proof = Proof(learner, tuple(input_shape), ways, shots, options, uint8, seed)
    data = _whole(functions, proof)
    difference = proof.difference(Session(data))
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return ExportedLearner(path, len(data), difference)


def _whole(functions: TaskFunctions, proof: Proof) -> bytes:
    names, free = (SUPPORT_X, SUPPORT_Y, QUERY_X), ("S", "S", "Q")
    inputs = dict(zip(names, proof.tasks[-1], strict=True))
    graph = traced(functions.logits, [*inputs.values()])
    return model_bytes(graph, inputs, dict(zip(names, free, strict=True)), [LOGITS])
