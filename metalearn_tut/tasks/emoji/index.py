"""What the sheet shows: sets of drawings with their licenses, classes, and who drew which."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("index.json")


class Drawings(NamedTuple):
    """A set of drawings; two sets of one house are by the same people."""

    name: str
    artist: str
    author: str
    house: str
    license: str  # "Apache-2.0", "MIT" or "CC-BY-4.0"
    license_url: str
    source: str
    package: str  # name and version of the package that it was taken from
    sha256: str  # of that package


class EmojiClass(NamedTuple):
    """One emoji, and the sets (by their position) whose drawings of it are in the sheet."""

    name: str
    code_point: str
    group: str
    subgroup: str
    sets: tuple[int, ...]


class Index(NamedTuple):
    """The contents of the index file."""

    sheet: str  # file name
    sha256: str  # of the sheet's file
    columns: int
    sets: tuple[Drawings, ...]
    classes: tuple[EmojiClass, ...]

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """The (set, class) of every tile of the sheet, in order: set after set."""
        return [
            (s, c)
            for s in range(len(self.sets))
            for c, of in enumerate(self.classes)
            if s in of.sets
        ]


@cache
def read_index() -> Index:
    """The index that the package carries."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return Index(
        **stored["sheet"],
        sets=tuple(Drawings(**drawings) for drawings in stored["sets"]),
        classes=tuple(EmojiClass(*row[:4], tuple(row[4])) for row in stored["classes"]),
    )


def houses() -> tuple[str, ...]:
    """Everybody who drew, in the order of the index."""
    return tuple(dict.fromkeys(drawings.house for drawings in read_index().sets))


def notices() -> list[str]:
    """A line for each set: what it is called, by whom, its license, and how many drawings."""
    index = read_index()
    counts = [sum(s in of.sets for of in index.classes) for s in range(len(index.sets))]
    return [
        f"{of.artist} by {of.author} ({of.source}), {of.license} ({of.license_url}): "
        f"{count} drawings, shrunk to 32 x 32 pixels on white"
        for of, count in zip(index.sets, counts, strict=True)
    ]
