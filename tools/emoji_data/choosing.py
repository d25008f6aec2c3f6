"""Which drawings are in the sheet: no text, no mirror images, nothing ambiguous, no copies."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from emoji_data import duplicates
from emoji_data.drawing import draw
from emoji_data.names import Emoji, drawings_of, unicode_list
from emoji_data.packages import SETS, read

FEWEST = 5  # drawings of a class: 1-shot with 4 queries
LEFT_OUT = Path(__file__).with_name("left_out.csv")
# Each of these has a neutral form, which is the class.
_VARIANT = re.compile(r"(man|woman|men|women) |.* (man|woman): ")


class Drawing(NamedTuple):
    """One drawing: what it is, whose, and which icon."""

    emoji: Emoji
    set: str
    icon: str


def left_out() -> list[dict[str, str]]:
    """The list of what was looked at and left out: kind, what, set, reason."""
    with LEFT_OUT.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def candidates() -> list[Drawing]:
    """The drawings that the list leaves, of emoji that at least five sets draw."""
    out = {(row["kind"], row["what"], row["set"]) for row in left_out()}
    emoji = unicode_list()
    found = drawings_of(emoji)
    chosen: list[Drawing] = []
    for e in emoji:
        named = ("subgroup", e.subgroup, ""), ("emoji", e.name, "")
        if out.intersection(named) or _VARIANT.match(e.name):
            continue
        icons = found.get(e.code_point, {})
        sets = [s for s in SETS if s in icons and ("image", e.name, s) not in out]
        chosen += [Drawing(e, s, icons[s]) for s in sets]
    return _of_enough(chosen)


def choose() -> tuple[list[Drawing], np.ndarray]:
    """The drawings of the sheet, and their images ``uint8 [n, 3, 32, 32]``."""
    drawings = candidates()
    icons = {name: read(of.package, "icons.json") for name, of in SETS.items()}
    images = np.stack([draw(icons[d.set], d.icon) for d in drawings])
    order = {code: i for i, code in enumerate(dict.fromkeys(d.emoji for d in drawings))}
    kept = duplicates.keep(images, [order[d.emoji] for d in drawings])
    stay = set(_of_enough([d for d, k in zip(drawings, kept, strict=True) if k]))
    rows = [i for i, d in enumerate(drawings) if d in stay]
    return [drawings[i] for i in rows], images[rows]


def _of_enough(drawings: list[Drawing]) -> list[Drawing]:
    count = Counter(d.emoji for d in drawings)
    return [d for d in drawings if count[d.emoji] >= FEWEST]
