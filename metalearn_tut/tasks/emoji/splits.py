"""Which classes and which houses are whose: the committed file of splits, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from metalearn_tut.checks import check_choice
from metalearn_tut.tasks.emoji.index import EmojiClass, houses

FILE = Path(__file__).with_name("splits.json")
KINDS = ("class", "artist", "both")


@cache
def read_splits() -> Mapping[str, Any]:
    """The file: of ``classes`` the subgroups and single emoji, of ``houses`` their names."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def split_of(emoji: EmojiClass) -> str:
    """The split that a class belongs to: its subgroup's, unless the file names the emoji itself.

    Raises
    ------
    ValueError
        If no split has it.
    """
    classes = read_splits()["classes"]
    for key, value in (("emoji", emoji.name), ("subgroups", emoji.subgroup)):
        for split, parts in classes.items():
            if value in parts[key]:
                return split
    raise ValueError(f"no split has {emoji.name!r} of {emoji.subgroup!r}: name it in {FILE}")


def houses_of(split: str, split_by: str, artists: Sequence[str] | None) -> tuple[str, ...]:
    """The houses whose drawings a split shows, of those that ``artists`` allows.

    Raises
    ------
    ValueError
        If ``artists`` names none, one that does not exist, or one of another split.
    """
    check_choice("split_by", split_by, KINDS)
    allowed = houses() if split_by == "class" else tuple(read_splits()["houses"][split])
    if artists is None:
        return allowed
    if isinstance(artists, str) or not artists:
        raise ValueError(f"artists must be a list of {', '.join(allowed)}, got {artists!r}")
    for artist in artists:
        check_choice("artists", artist, houses())
        if artist not in allowed:
            raise ValueError(
                f"artists: split_by={split_by!r} shows {' and '.join(allowed)} in {split!r}, "
                f"not {artist!r}"
            )
    return tuple(house for house in allowed if house in artists)
