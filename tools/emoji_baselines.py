"""How far pixels and colors alone go on emoji: ``python tools/emoji_baselines.py``.

Writes ``results/emoji/baselines.json``: accuracy of the nearest support image, by all its pixels
and by its mean color, on 600 test tasks of each way to split the data. A minute on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.evaluation.accuracy import interval
from metalearn_tut.files.provenance import write_result
from metalearn_tut.tasks import Task, TaskSampler, as_float, emoji

FILE = Path(__file__).parents[1] / "results" / "emoji" / "baselines.json"
TASKS, SEED = 600, 1
# How the test split is made, and how many queries its classes allow beside one support image.
KINDS: tuple[tuple[str, bool, int], ...] = (
    ("class", False, 4),
    ("class", True, 3),
    ("artist", False, 1),
    ("both", False, 1),
)


def pixels(images: Tensor) -> Tensor:
    """All pixels of each image, ``[n, 3, H, W]`` to ``[n, 3·H·W]``."""
    return images.flatten(1)


def mean_color(images: Tensor) -> Tensor:
    """The mean of each channel, ``[n, 3, H, W]`` to ``[n, 3]``."""
    return images.mean((2, 3))


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest neighbor in pixels": pixels,
    "nearest neighbor in mean color": mean_color,
}


def accuracy(task: Task, feature: Callable[[Tensor], Tensor]) -> float:
    """The share of query images whose nearest support image is of their class."""
    support, query = (feature(as_float(x)) for x in (task.support_x, task.query_x))
    nearest = torch.cdist(query, support).argmin(1)
    return (task.support_y[nearest] == task.query_y).double().mean().item()


def measured(sampler: TaskSampler, name: str) -> dict[str, float]:
    """Mean and half-width of the 95 % interval over the first tasks of a sampler."""
    values = [accuracy(sampler[i], METHODS[name]) for i in range(TASKS)]
    mean, half = interval(torch.tensor(values, dtype=torch.double))
    return {"accuracy": mean, "half_width": half}


def rows() -> list[dict[str, Any]]:
    """One row for each method, way to split and number of ways."""
    found = []
    for split_by, cross_artist, queries in KINDS:
        source = emoji("test", split_by=split_by, cross_artist=cross_artist)
        for ways in (5, 20):
            sampler = source.sampler(ways, 1, queries, SEED)
            kind = {"split_by": split_by, "cross_artist": cross_artist}
            kind |= {"ways": ways, "shots": 1, "queries": queries}
            found += [{"method": name, **kind, **measured(sampler, name)} for name in METHODS]
    return found


if __name__ == "__main__":
    config = {"split": "test", "tasks": TASKS, "seed": SEED}
    FILE.parent.mkdir(exist_ok=True)
    write_result(FILE, config=config, values={"rows": rows()})
    print(FILE)
