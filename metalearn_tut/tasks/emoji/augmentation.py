"""Tasks whose images are posed and tinted anew: the same for everyone who asks for task i."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from metalearn_tut.checks import check_index
from metalearn_tut.tasks.sampler import TaskSampler, raw_draws
from metalearn_tut.tasks.task import Task

_STREAM = 1000  # of draws: see raw_draws; streams of other wrappers are near 0
_DRAWS = 8  # per image: scale, rotation, two shifts, mirror, three colors
SHIFT = 2 / 32  # of the side
SCALE = 0.85, 1.1
TURN = 0.0875  # tangent of half the angle: 10 degrees
TINT = 0.75, 1.25  # what each channel's ink (255 minus the pixel) is multiplied by

_BITS = 8  # of a weight between two pixels, and of a tint
_ONE = 1 << _BITS
_LANE = 16  # bits of a channel in a packed pixel: a channel times the weights' sum fits


class Jittered(TaskSampler):
    """The tasks of a sampler of ``uint8`` images, every image shifted, scaled, turned, tinted.

    Each image is shifted by up to 2 of 32 pixels, scaled to 0.85 to 1.1 of its size, turned by
    up to 10 degrees, mirrored or not, and its ink multiplied by 0.75 to 1.25 in each channel:
    white stays white. All is computed in whole numbers from draws that belong to the task's
    index, so task ``i`` is the same on every machine, in any order.

    Parameters
    ----------
    sampler : TaskSampler
        Tasks of images ``uint8 [n, 3, H, W]`` on white.
    seed : int
        Names the draws; they are independent of the classes drawn under the same seed.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> sampler = tasks.emoji("train").sampler(ways=5, shots=1, queries=4)
    >>> bool((sampler[3].support_x == sampler[3].support_x).all())
    True
    """

    decided_by = ("sampler", "seed")

    def __init__(self, sampler: TaskSampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def __repr__(self) -> str:
        return f"Jittered({self.sampler!r})"

    def __getitem__(self, index: int) -> Task:
        index = check_index(index)
        task = self.sampler[index]
        images = torch.cat([task.support_x, task.query_x]).numpy()
        draws = raw_draws(self.seed, index, len(images) * _DRAWS, _STREAM)
        units = (np.array(draws, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        posed = torch.from_numpy(jittered(images, units.reshape(-1, _DRAWS)))
        n = len(task.support_x)
        return replace(task, support_x=posed[:n], query_x=posed[n:])


def jittered(images: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Images ``uint8 [n, 3, H, W]`` posed and tinted by numbers in [0, 1), ``[n, 8]``."""
    n, channels, height, width = images.shape
    packed = _packed(images)
    across, down = _sources(units, height, width)
    posed = _between(packed, across, down).reshape(n, height, width)
    lanes = np.arange(channels, dtype=np.uint64)[:, None, None] * np.uint64(_LANE)
    ink = (posed[:, None] >> lanes).astype(np.uint16) & np.uint16(255)
    low, high = (round(bound * _ONE) for bound in TINT)
    tint = (low + units[:, 5:8] * (high - low + 1)).astype(np.uint32)[..., None, None]
    return (255 - np.minimum((ink * tint) >> _BITS, 255)).astype(np.uint8)


def _packed(images: np.ndarray) -> np.ndarray:
    """The ink of three channels as one 64-bit number, in a border without ink: ``[n, ·]``."""
    n, _, height, width = images.shape
    ink = np.zeros((n, height + 2, width + 2), np.uint64)
    inside = ink[:, 1:-1, 1:-1]
    for channel in range(3):
        inside |= (255 - images[:, channel]).astype(np.uint64) << np.uint64(_LANE * channel)
    return ink.reshape(n, -1)


def _sources(units: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel comes from, in 256ths of a pixel of the bordered image: 2 x ``[n, H, W]``.

    Plain arithmetic only, rounded once: sines and linear algebra libraries differ in the last
    bit from machine to machine.
    """
    scale, turn, right, below, mirror = units[:, :5].T
    zoom = 1 / (SCALE[0] + (SCALE[1] - SCALE[0]) * scale)
    t = TURN * (2 * turn - 1)
    cos, sin = zoom * (1 - t * t) / (1 + t * t), zoom * 2 * t / (1 + t * t)
    flip = np.where(mirror < 0.5, -1.0, 1.0)
    a, b, c, d = (
        np.rint(part * _ONE * _ONE).astype(np.int64)[:, None, None]
        for part in (cos * flip, sin * flip, -sin, cos)
    )
    shift = [
        np.rint((2 * part - 1) * SHIFT * side * _ONE).astype(np.int64)[:, None, None]
        for part, side in ((right, width), (below, height))
    ]
    x = (2 * np.arange(width, dtype=np.int64) - (width - 1))[None, None]  # in half pixels
    y = (2 * np.arange(height, dtype=np.int64) - (height - 1))[None, :, None]
    half = 1 << _BITS  # of the divisor 2·256
    across = ((a * x + b * y + half) >> (_BITS + 1)) + shift[0] + _ONE * (width + 1) // 2
    down = ((c * x + d * y + half) >> (_BITS + 1)) + shift[1] + _ONE * (height + 1) // 2
    last = _ONE * (width + 1) - 1, _ONE * (height + 1) - 1
    return np.clip(across, 0, last[0]), np.clip(down, 0, last[1])


def _between(packed: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Packed pixels between four neighbors, all channels in one multiplication: ``[n, H·W]``."""
    n, _, width = across.shape
    column, row = across >> _BITS, down >> _BITS
    right, below = ((v & (_ONE - 1)).astype(np.uint64) for v in (across, down))
    first = (row * (width + 2) + column).reshape(n, -1)
    first += np.arange(n)[:, None] * packed.shape[1]
    flat, one, bits = packed.reshape(-1), np.uint64(_ONE), np.uint64(_BITS)
    right, below = right.reshape(n, -1), below.reshape(n, -1)
    mask = np.uint64(0x00FF00FF00FF)
    rows = []
    for start in (first, first + width + 2):
        mixed = flat[start] * (one - right) + flat[start + 1] * right
        rows.append((mixed >> bits) & mask)
    mixed = rows[0] * (one - below) + rows[1] * below
    return (mixed >> bits) & mask
