"""Omniglot's official one-shot runs: 20 tasks of 20-way one-shot, the same for everyone.

Lake, Salakhutdinov and Tenenbaum, Science 350 (2015), one-shot classification; the file is
``all_runs.zip`` of https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from metalearn_tut.checks import check_count, check_index
from metalearn_tut.tasks import files
from metalearn_tut.tasks.omniglot.source import read_ink
from metalearn_tut.tasks.sampler import TaskSampler
from metalearn_tut.tasks.task import Task, tasks_hash

_RUNS, _WAYS = 20, 20


class OmniglotRuns(TaskSampler):
    """A finite list of tasks: random access from 0 to ``len - 1``, then ``IndexError``."""

    def __init__(self, runs: Sequence[Task]) -> None:
        self.runs = tuple(runs)

    def settings(self) -> dict[str, Any]:
        """The content of all runs, as JSON."""
        return {"sampler": type(self).__name__, "tasks": tasks_hash(self.runs)}

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> Task:
        if (index := check_index(index)) >= len(self):
            raise IndexError(f"run index must be in 0..{len(self) - 1}, got {index}")
        return self.runs[index]

    def __repr__(self) -> str:
        return f"OmniglotRuns({len(self)} runs, {_WAYS}-way 1-shot)"


def omniglot_runs(path: str | os.PathLike[str], *, size: int = 28) -> OmniglotRuns:
    """The official one-shot runs as tasks.

    Task ``i`` is run ``i + 1``: its support set is the run's training images in the order
    of their names, with labels 0 to 19; its query set the run's test images, labelled as
    ``class_labels.txt`` says. Images are as :func:`omniglot` gives them.

    Parameters
    ----------
    path : path
        A folder or zip that holds ``runNN/training/classMM.png``, ``runNN/test/itemMM.png``
        and ``runNN/class_labels.txt`` (a line is a test file and its training file),
        possibly inside other folders.
    size : int, default 28
        Side of the images in pixels.

    Returns
    -------
    OmniglotRuns
        20 tasks with support ``[20, 1, size, size]`` and query ``[20, 1, size, size]``.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist.
    ValueError
        If a run or a file of it is missing, damaged or malformed; the message names it.
    """
    check_count(size=size)
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"omniglot_runs needs a folder or zip of the runs, got {path}")
    with files.opened(path) as (names, read):
        listings = [name for name in names if PurePosixPath(name).name == "class_labels.txt"]
        if len(listings) != _RUNS:
            raise ValueError(
                f"{path} must hold {_RUNS} runs, one runNN/class_labels.txt each, "
                f"but has {len(listings)}"
            )
        runs = [
            _run(PurePosixPath(listing).parent, names, read, path, size) for listing in listings
        ]
    return OmniglotRuns(runs)


def _run(
    run: PurePosixPath, names: Sequence[str], read: Callable[[str], bytes], path: Path, size: int
) -> Task:
    training, test = _images(run / "training", names, path), _images(run / "test", names, path)
    listing = f"{run}/class_labels.txt"
    labels = _labels(read(listing), run.parent, training, test, f"{listing} in {path}")

    def drawings(of: Sequence[str]) -> torch.Tensor:
        ink = [read_ink(read(name), f"{name} in {path}", size) for name in of]
        return torch.from_numpy(np.stack(ink)[:, None])

    x, y = drawings(training), drawings(test)
    return Task(x, torch.arange(_WAYS), y, torch.tensor(labels), tags={"run": run.name})


def _images(folder: PurePosixPath, names: Sequence[str], path: Path) -> list[str]:
    found = files.image_names([name for name in names if name.startswith(f"{folder}/")])
    if len(found) != _WAYS:
        raise ValueError(f"{folder} in {path} must hold {_WAYS} images, but has {len(found)}")
    return found


def _labels(
    text: bytes, base: PurePosixPath, training: Sequence[str], test: Sequence[str], where: str
) -> list[int]:
    """The label of each test file, from lines "<test file> <training file>"."""
    label_of: dict[str, int] = {}
    for line in filter(str.strip, text.decode("utf-8", "replace").splitlines()):
        pair = [str(base / name) for name in line.split()]
        if len(pair) != 2 or pair[0] not in test or pair[1] not in training:
            raise ValueError(
                f"{where}: a line must be a test file and a training file of this run, got {line!r}"
            )
        if pair[0] in label_of:
            raise ValueError(f"{where}: {line.split()[0]} is listed twice")
        label_of[pair[0]] = training.index(pair[1])
    if unlisted := [name for name in test if name not in label_of]:
        raise ValueError(f"{where}: no line for {unlisted[0]}")
    return [label_of[name] for name in test]
