"""Pictures of the data card: contact sheets of each split's classes, a row of houses for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from metalearn_tut.tasks.emoji.index import read_index
from metalearn_tut.tasks.emoji.sheet import SIZE, joined, read_tiles
from metalearn_tut.tasks.emoji.splits import split_of

FOLDER = Path(__file__).parents[2] / "book" / "_static"
_ACROSS = 4  # classes beside each other


def contact_sheet(split: str, classes: int) -> Image.Image:
    """``classes`` classes spread over the split: four a row, each with a place for every set."""
    index = read_index()
    mine = [c for c, of in enumerate(index.classes) if split_of(of) == split]
    shown = [mine[i * len(mine) // classes] for i in range(classes)]
    place = {tile: i for i, tile in enumerate(index.tiles)}
    blank = np.full((3, SIZE, SIZE), 255, np.uint8)
    sets = range(len(index.sets))
    tiles = read_tiles()
    places = [(s, c) for c in shown for s in (*sets, None)]  # and a gap after each class
    rows = [tiles[place[at]] if at in place else blank for at in places]
    rows = np.pad(np.stack(rows), ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=255)
    return Image.fromarray(joined(rows, _ACROSS * (len(sets) + 1)))


def write() -> None:
    """The contact sheets of training and test classes."""
    for split in ("train", "test"):
        contact_sheet(split, 48).save(FOLDER / f"emoji_{split}.png", optimize=True)
