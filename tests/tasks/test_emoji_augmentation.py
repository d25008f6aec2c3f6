"""Augmentation of emoji: an independent bilinear warp, white stays white, ranges, independence."""

import math

import numpy as np
import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.tasks.emoji.augmentation import SCALE, SHIFT, TINT, Jittered, jittered
from metalearn_tut.tasks.emoji.sheet import read_tiles

# Numbers for which nothing happens: scale 1, no turn, no shift, not mirrored, tint 1.
STILL = [(1 - SCALE[0]) / (SCALE[1] - SCALE[0]), 0.5, 0.5, 0.5, 0.75, 0.5, 0.5, 0.5]


def units(**changed: float) -> np.ndarray:
    names = ("scale", "turn", "right", "below", "mirror", "red", "green", "blue")
    values = dict(zip(names, STILL, strict=True)) | changed
    return np.array([list(values.values())])


@pytest.fixture(scope="module")
def drawings():
    return read_tiles()[[5, 1000, 2500, 4000]]


def test_the_numbers_in_the_middle_leave_an_image_as_it_is(drawings):
    for image in drawings:
        assert (jittered(image[None], units()) == image).all()


def test_a_mirrored_image_is_the_mirror_image(drawings):
    assert (jittered(drawings[:1], units(mirror=0.2)) == drawings[:1, :, :, ::-1]).all()


def test_a_shift_moves_by_two_of_32_pixels_and_brings_white_in(drawings):
    moved = jittered(drawings[:1], units(right=0.0))[0]
    assert (moved[:, :, 2:] == drawings[0, :, :, :-2]).all() and (moved[:, :, :2] == 255).all()
    up = jittered(drawings[:1], units(below=1.0))[0]
    assert (up[:, :-2] == drawings[0, :, 2:]).all() and (up[:, -2:] == 255).all()


def test_a_tint_multiplies_the_ink_of_one_channel(drawings):
    tinted = jittered(drawings[:1], units(red=0.0))[0].astype(int)
    ink = 255 - drawings[0].astype(int)
    assert np.abs((255 - tinted[0]) - TINT[0] * ink[0]).max() <= 1
    assert (tinted[1:] == drawings[0, 1:]).all()


def by_interpolation(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The same warp with sines, in floating point, pixel by pixel."""
    scale, turn, right, below, mirror, *tint = values
    zoom = SCALE[0] + (SCALE[1] - SCALE[0]) * scale
    angle = 2 * math.atan(0.0875 * (2 * turn - 1))
    flip = -1 if mirror < 0.5 else 1
    ink = np.zeros((3, 34, 34))
    ink[:, 1:-1, 1:-1] = 255.0 - image
    out = np.empty((3, 32, 32))
    for row in range(32):
        for column in range(32):
            x, y = (column - 15.5) / zoom, (row - 15.5) / zoom
            across = flip * math.cos(angle) * x + flip * math.sin(angle) * y
            down = -math.sin(angle) * x + math.cos(angle) * y
            across += (2 * right - 1) * SHIFT * 32 + 16.5
            down += (2 * below - 1) * SHIFT * 32 + 16.5
            across, down = min(max(across, 0), 32.999), min(max(down, 0), 32.999)
            i, j = int(down), int(across)
            v, h = down - i, across - j
            top = (1 - h) * ink[:, i, j] + h * ink[:, i, j + 1]
            bottom = (1 - h) * ink[:, i + 1, j] + h * ink[:, i + 1, j + 1]
            out[:, row, column] = (1 - v) * top + v * bottom
    factor = TINT[0] + (TINT[1] - TINT[0]) * np.array(tint)
    return 255 - np.minimum(out * factor[:, None, None], 255)


def test_any_pose_agrees_with_interpolation_in_floating_point(drawings):
    values = np.random.default_rng(0).random((4, 8))
    found = jittered(drawings, values).astype(float)
    for image, posed, numbers in zip(drawings, found, values, strict=True):
        difference = np.abs(posed - by_interpolation(image, numbers))
        assert difference.max() <= 6 and difference.mean() < 2  # of 255: rounded places and weights


def test_white_stays_white_and_nothing_else_appears():
    white = np.full((50, 3, 32, 32), 255, np.uint8)
    values = np.random.default_rng(1).random((50, 8))
    assert (jittered(white, values) == 255).all()
    gray = np.full((50, 3, 32, 32), 155, np.uint8)
    assert jittered(gray, values).min() >= 255 - round(100 * TINT[1]) - 1


def test_images_keep_shape_and_dtype_at_every_size():
    source = tasks.emoji("train", size=20)
    task = source.sampler(5, 1, 4)[0]
    assert task.query_x.shape == (20, 3, 20, 20) and task.query_x.dtype == torch.uint8


def test_a_task_is_the_plain_task_posed_anew_each_time_another_way():
    plain = tasks.emoji("train", augment=False).sampler(5, 1, 4, seed=3)
    posed = tasks.emoji("train").sampler(5, 1, 4, seed=3)
    for i in (0, 1, 2**63):
        assert posed[i].tags == plain[i].tags
        assert (posed[i].query_y == plain[i].query_y).all()
        assert (posed[i].support_x == posed[i].support_x).all()
        far = (posed[i].query_x.double() - plain[i].query_x.double()).abs().mean((1, 2, 3))
        assert (far > 0).all()


def test_equal_images_of_a_task_are_posed_differently():
    source = tasks.from_arrays(np.repeat(read_tiles()[7][None], 12, 0), np.repeat([0, 1], 6))
    task = Jittered(source.sampler(2, 1, 5), seed=0)[0]
    images = torch.cat([task.support_x, task.query_x]).flatten(1)
    assert len(images.unique(dim=0)) == 12


def test_other_seeds_pose_otherwise():
    sampler = tasks.emoji("train", augment=False).sampler(5, 1, 4)
    a, b = (Jittered(sampler, seed)[0] for seed in (0, 1))
    assert (a.query_x != b.query_x).any()
