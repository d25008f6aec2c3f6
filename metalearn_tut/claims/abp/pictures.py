"""The labelled images of the ABP studies, in three parts: training, validation, test."""

from __future__ import annotations

import numpy as np

from metalearn_tut.claims.study import Config
from metalearn_tut.claims.tasks import source
from metalearn_tut.tasks import cifar10

Part = tuple[np.ndarray, np.ndarray]
TOGETHER = {"cifar10": 50, "emoji": 10}  # test images that are counted together: as a task


def parts_of(data: Config) -> dict[str, Part]:
    """Images ``[M, 3, 32, 32]`` and labels of ``train``, ``validation`` and ``test``."""
    return {"cifar10": _cifar, "emoji": _emoji}[data["name"]](data)


def _cifar(data: Config) -> dict[str, Part]:
    """As many of the first images of each split as are asked for."""
    found = {split: cifar10(split) for split in ("train", "validation", "test")}
    return {n: (part.images[: data[n]], part.labels[: data[n]]) for n, part in found.items()}


def _emoji(data: Config) -> dict[str, Part]:
    """Some of the emoji, a class each: of one artist for the test, of one for validation.

    The others' are for training. Which artists these are differs from emoji to emoji.
    """
    emoji, draw = source("emoji", "train"), np.random.default_rng(0)
    rows: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for own in emoji.rows[: data["classes"]]:
        mixed = draw.permutation(own)
        for part, some in zip(rows, np.split(mixed, [len(own) - 2, len(own) - 1]), strict=True):
            rows[part].append(some)
    return {
        part: (
            emoji.images[np.concatenate(each)],
            np.repeat(np.arange(len(each)), [len(some) for some in each]),
        )
        for part, each in rows.items()
    }
