"""From a learner to an ONNX file that learns: support set and query in, logits out."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from metalearn_tut.checks import check_count, check_seed
from metalearn_tut.deployment.learner_checks import (
    check_learner,
    check_opset,
    checked_path,
    checked_shape,
    ways_for,
)
from metalearn_tut.deployment.learner_proof import Proof
from metalearn_tut.deployment.onnx_model import Session, require_extra
from metalearn_tut.deployment.task_functions import TaskFunctions
from metalearn_tut.deployment.task_models import Form, halves, whole
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.learners.learner import Learner

_SHOTS = 3


@dataclass(frozen=True, repr=False)
class ExportedLearner:
    """What :func:`export_learner` wrote, and how it compares with the learner.

    Parameters
    ----------
    paths : tuple of Path
        The file, or the two halves.
    sizes : tuple of int
        Their sizes in bytes.
    difference : float
        Largest difference between their logits and the learner's, as a share of the largest.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    difference: float

    def __repr__(self) -> str:
        files = ", ".join(f"{p}: {s:,} bytes" for p, s in zip(self.paths, self.sizes, strict=True))
        return f"ExportedLearner({files}; logits equal to {self.difference:.0e} of the largest)"


def export_learner(
    learner: Learner,
    path: str | os.PathLike[str],
    input_shape: Sequence[int],
    *,
    classify: str | os.PathLike[str] | None = None,
    ways: int | None = None,
    steps: int | None = None,
    max_shots: int | None = None,
    uint8: bool = False,
    half: bool = False,
    opset: int = 17,
    seed: int = 0,
) -> ExportedLearner:
    """Write a learner as an ONNX file that learns, if onnxruntime learns the same from it.

    The file takes a support set and queries, and gives what the learner answers after it has
    adapted: ``support_x [S, *input_shape]``, ``support_y [S]`` (int64 in 0..ways-1) and
    ``query_x [Q, *input_shape]`` become ``logits [Q, ways]``, float32, for any S and Q. It is
    the learner's own computation, traced, with all gradients that it takes: standard operators
    alone, which any runtime for ONNX knows. It names no folder of this machine.

    A support set that lacks a class, has a label outside 0..ways-1, or numbers that are not
    finite, gives logits that are all NaN.

    Before it is written, the file learns ten random tasks in onnxruntime that differ in labels,
    numbers of images, and queries: all logits must be the learner's but for 1e-4 of the
    largest (or but for what a last digit of the pixels changes of its own, where that is more,
    as in deep networks with group norm), and other labels must change them.

    Parameters
    ----------
    learner : Learner
        MAML and its relatives, Reptile, ProtoNet, MetaDistiller (the teacher guides inside the
        file; ``distiller.student`` is the form without it) or MetaGater; pruned or not. It is
        left as it was.
    path : path
        A file ending in ``.onnx``; it is replaced at once, or stays as it is if anything fails.
    input_shape : sequence of int
        Shape of one input, such as ``(1, 28, 28)``.
    classify : path, optional
        Write two files: ``path`` takes ``support_x`` and ``support_y`` and gives the weights of
        the task's network, by name, NaN for what is no support set. This one takes those
        weights and ``query_x``, and gives ``logits``. So a device adapts once.
    ways : int, optional
        Number of classes, free for ProtoNet and with ``zero_head``; that of training by default.
    steps : int, optional
        Inner steps, those of training by default.
    max_shots : int, optional
        Up to how many images of a class the ten tasks have, 3 by default. More may be given to
        the file, but to that of MetaGater, whose gates have noise for ``ways · max_shots``
        images: more give NaN.
    uint8 : bool, default False
        Take images as ``uint8`` 0..255, which the file scales to 0..1, instead of float32.
    half : bool, default False
        Keep numbers as float16 in the file, which is then about half as large; computed is in
        float32. It answers as the learner does whose parameters are rounded so.
    opset : {17, 18, 19, 20}
        Version of the operators. With 17, a network with an operator that has another meaning
        there is refused.
    seed : int, default 0
        Names the ten tasks.

    Returns
    -------
    ExportedLearner
        With the size of the file or files, and the largest difference.

    Raises
    ------
    ImportError
        If the extra ``deploy`` is not installed, naming what is missing.
    TypeError, ValueError
        For what is no learner, or one that cannot be exported: it is not in float32, learns
        from no labels, does not fit ``input_shape`` or ``ways``, or needs an operator that ONNX
        lacks and that has no rule here, which is named with its layer.
    RuntimeError
        If onnxruntime computes something else, or the learner does not learn.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> from metalearn_tut import pretrained
    >>> learner = pretrained.load("glyphs_5way_1shot")
    >>> export_learner(learner, "learns.onnx", (1, 28, 28))  # doctest: +SKIP
    ExportedLearner(learns.onnx: 145,169 bytes; logits equal to 3e-06 of the largest)
    """
    paths = [checked_path("path", path)]
    if classify is not None:
        paths.append(checked_path("classify", classify))
    check_learner(learner)
    check_opset(opset)
    check_seed(seed)
    (shots,) = check_count(max_shots=_SHOTS if max_shots is None else max_shots)
    shape, ways = checked_shape(input_shape), ways_for(learner, ways)
    require_extra()
    own = _private(learner, half)
    told = {} if steps is None else {"steps": steps}
    proof = Proof(own, shape, ways, shots, told, uint8, seed)
    proof.check()
    drawn = own.drawn(ways * shots)
    most = ways * shots if drawn else None
    options = {**told, **drawn, "ways": ways}
    functions = TaskFunctions(own.working(training=False), ways, options, most)
    form = Form(functions, proof.tasks[-1], opset, half)
    files = [whole(form)] if classify is None else halves(form)
    sessions = [Session(data) for data in files]
    difference = proof.difference(lambda *task: _answer(sessions, *task))
    for target, data in zip(paths, files, strict=True):
        with atomic_write(target) as temporary:
            temporary.write_bytes(data)
    return ExportedLearner(tuple(paths), tuple(map(len, files)), difference)


def _private(learner: Learner, half: bool) -> Learner:
    """A copy on the CPU, whose numbers are rounded to float16 if asked for."""
    own = copy.deepcopy(learner).cpu()
    with torch.no_grad():
        for p in (*own.parameters(), *own.buffers()) if half else ():
            if p.is_floating_point():
                p.copy_(p.half())
    return own


def _answer(
    sessions: Sequence[Session],
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
) -> torch.Tensor:
    """Logits by a whole file, or by two halves."""
    given = {"support_x": support_x, "support_y": support_y}
    for session in sessions[:-1]:
        given = session.named(**given)
    return sessions[-1].named(**given, query_x=query_x)["logits"]
