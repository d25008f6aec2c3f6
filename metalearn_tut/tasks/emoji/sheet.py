"""The sheet of drawings: one lossless picture, cut into tiles."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

from metalearn_tut.checks import as_integer
from metalearn_tut.files.pictures import decode
from metalearn_tut.tasks.emoji.index import Index, read_index

SIZE = 32
SMALLEST = 8


@cache
def read_tiles() -> np.ndarray:
    """All tiles of the package's sheet, ``uint8 [M, 3, 32, 32]``, decoded once per process."""
    index = read_index()
    return tiles_of(Path(__file__).with_name(index.sheet), index)


def tiles_of(file: Path, index: Index) -> np.ndarray:
    """The tiles of a sheet, read-only, in the order of :attr:`Index.tiles`.

    Raises
    ------
    ValueError
        If the file is not the one that the index was written for.
    """
    data = file.read_bytes() if file.is_file() else b""
    found = hashlib.sha256(data).hexdigest()
    if found != index.sha256:
        state = "damaged" if data else "missing"
        raise ValueError(
            f"{file} is {state}: its sha256 must be {index.sha256}, got {found}; install "
            "metalearn-tut again"
        )
    picture = np.asarray(decode(data, str(file)))
    rows, columns = (side // SIZE for side in picture.shape[:2])
    tiles = picture.reshape(rows, SIZE, columns, SIZE, 3).transpose(0, 2, 4, 1, 3)
    tiles = np.ascontiguousarray(tiles.reshape(-1, 3, SIZE, SIZE)[: len(index.tiles)])
    tiles.flags.writeable = False
    return tiles


def joined(tiles: np.ndarray, columns: int) -> np.ndarray:
    """The sheet of ``tiles [M, 3, H, W]``, row by row, white at its end: ``uint8 [., ., 3]``."""
    _, channels, height, width = tiles.shape
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * columns, channels, height, width), 255, np.uint8)
    sheet[: len(tiles)] = tiles
    sheet = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return sheet.reshape(rows * height, columns * width, channels)


def check_size(size: int) -> int:
    """``size`` as Python's integer; refuse one that the sheet cannot give.

    Raises
    ------
    ValueError
        If it is not 8 to 32: larger images would show nothing that the stored ones do not.
    """
    number = as_integer(size)
    if number is None or not SMALLEST <= number <= SIZE:
        raise ValueError(
            f"size must be an integer in {SMALLEST}..{SIZE} (drawings are stored at {SIZE} "
            f"pixels, and enlarging them adds nothing), got {size!r}"
        )
    return number


def shrunk(images: np.ndarray, size: int) -> np.ndarray:
    """``uint8 [n, 3, 32, 32]`` at ``size`` pixels: each the mean of the area that it covers.

    Every sum is a whole number below 2**24, which ``float32`` holds exactly: the result does not
    depend on the machine.
    """
    if size == SIZE:
        return images
    edges = np.arange(size + 1) * SIZE  # in units of 1 / size of a stored pixel
    pixels = np.arange(SIZE + 1) * size
    upper = np.minimum(edges[1:, None], pixels[None, 1:])
    cover = np.maximum(upper - np.maximum(edges[:-1, None], pixels[None, :-1]), 0)
    cover = cover.astype(np.float32)  # [size, 32], each row sums to 32
    sums = cover @ images.astype(np.float32) @ cover.T
    return ((sums.astype(np.int32) + SIZE**2 // 2) // SIZE**2).astype(np.uint8)
