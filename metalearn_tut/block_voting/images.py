"""Labelled images on the way to a network: checked, on its device, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalearn_tut.models.mode import evaluating
from metalearn_tut.tasks.task import as_float

Images = np.ndarray | Tensor
Data = tuple[Any, ...]
"""``LabelledImages``, or a pair of images ``[M, C, H, W]`` and labels ``[M]``."""


def tensors(network: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """Images as they are stored, and labels, on the network's device.

    Raises
    ------
    ValueError
        If there is no image, not one whole number per image as its label, or a label that the
        network has no output for (``network.classes``, if it says so).
    """
    images, labels = data[:2]
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            "data must be images and as many labels, at least one, "
            f"got {len(images)} images and {len(labels)} labels"
        )
    device = like(network).device
    x, y = _tensor(images).to(device), _labels(labels).to(device)
    classes = getattr(network, "classes", int(y.max()) + 1)
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1} (classes of the network), "
            f"got {int(y.min())}..{int(y.max())}"
        )
    return x, y


def batches(network: nn.Module, images: Images) -> Iterator[Tensor]:
    """The images in order, as the network reads them: 500 at a time, on a GPU 5,000."""
    first = like(network)
    size = 500 if first.device.type == "cpu" else 5000
    for i in range(0, len(images), size):
        yield as_float(_tensor(images[i : i + size]).to(first.device), first.dtype)


def like(network: nn.Module) -> Tensor:
    """The network's first parameter: its device and dtype are the network's."""
    return next(network.parameters())


def answers(network: nn.Module, images: Images) -> Tensor:
    """The class ``[M]`` that the network names for each image, in evaluation mode."""
    with evaluating(network):
        return torch.cat([network(x).argmax(1) for x in batches(network, images)])


def image_accuracy(network: nn.Module, data: Data) -> float:
    """Share of the images that the network classifies rightly, in evaluation mode.

    Parameters
    ----------
    network : nn.Module
        From images to logits ``[B, classes]``; left as it was.
    data : LabelledImages or (images [M, C, H, W], labels [M])

    Raises
    ------
    ValueError
        If there is no image, or labels do not fit.

    Examples
    --------
    >>> images = torch.tensor([[0.0, 1.0], [1.0, 0.0], [3.0, 2.0]])
    >>> network = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(network.weight)
    >>> image_accuracy(network, (images, [1, 0, 1]))  # doctest: +ELLIPSIS
    0.66...
    """
    _, labels = tensors(network, data)
    return (answers(network, data[0]) == labels).double().mean().item()


def _labels(labels: Any) -> Tensor:
    """Labels ``[M]`` as int64: no column of them, no row of shares, and no fraction cut off."""
    try:
        found = _tensor(labels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels must be whole numbers, got {type(labels[0])}") from error
    if found.ndim != 1:
        raise ValueError(f"labels must be [M], one number per image, got {list(found.shape)}")
    whole = found.to(torch.int64)
    if bool((whole != found).any()):
        wrong = found[whole != found][0].item()
        raise ValueError(f"labels must be whole numbers, got {wrong}")
    return whole


def _tensor(values: Any) -> Tensor:
    # a copy: an array that cannot be written to, as those read from a cache, makes PyTorch warn
    return values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
