"""The labelled images of the ABP study, in three parts: training, validation, test."""

from __future__ import annotations

import numpy as np

from metalearn_tut.claims.study import Config
from metalearn_tut.tasks import cifar10

Part = tuple[np.ndarray, np.ndarray]


def parts_of(data: Config) -> dict[str, Part]:
    """Images ``[M, 3, 32, 32]`` and labels of ``train``, ``validation`` and ``test``.

    Of CIFAR-10 as many of the first images of each split as are asked for.
    """
    return {"cifar10": _cifar}[data["name"]](data)


def _cifar(data: Config) -> dict[str, Part]:
    found = {split: cifar10(split) for split in ("train", "validation", "test")}
    return {
        name: (part.images[: data[name]], part.labels[: data[name]]) for name, part in found.items()
    }
