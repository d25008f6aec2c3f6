"""Which drawing of which set is which emoji: by code point where known, else by name."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from emoji_data.packages import SETS, UNICODE, read

_OTHER_NAMES = Path(__file__).with_name("other_names.csv")


class Emoji(NamedTuple):
    """One emoji of Unicode's list."""

    code_point: str  # "1F600", or several joined by "-"
    name: str
    group: str
    subgroup: str


def unicode_list() -> list[Emoji]:
    """All emoji that belong to a group, in Unicode's order."""
    kinds = read(UNICODE, "meta/groups.json")
    groups, subgroups = kinds["groups"], kinds["subgroups"]
    rows = [row for row in read(UNICODE, "en/data.json") if "group" in row]
    return [
        Emoji(
            row["hexcode"],
            row["label"],
            groups[str(row["group"])],
            subgroups[str(row["subgroup"])],
        )
        for row in sorted(rows, key=lambda row: row["order"])
    ]


def squashed(name: str) -> str:
    """A name without what sets spell differently: ``"Woman’s boot"`` is ``"womansboot"``."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))


def drawings_of(emoji: list[Emoji]) -> dict[str, dict[str, str]]:
    """For each code point, the icon of every set that draws it.

    A set without code points is matched by Unicode's present and formal names and by the names
    that the sets with code points use; ``other_names.csv`` adds what only a reader recognizes.
    A name that stands for two emoji matches none.
    """
    labels = {squashed(e.name): e.code_point for e in emoji}
    names = _names(emoji)
    with _OTHER_NAMES.open(encoding="utf-8") as file:
        other = {(row["set"], row["icon"]): row["label"] for row in csv.DictReader(file)}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, drawings in SETS.items():
        for icon in read(drawings.package, "icons.json")["icons"]:
            spelled = squashed(other.get((name, icon), _plain(name, icon)))
            known = names.get(spelled, set())
            code = labels.get(spelled) or (next(iter(known)) if len(known) == 1 else None)
            if code:
                found[code].setdefault(name, icon)
    return dict(found)


def _plain(set_name: str, icon: str) -> str:
    """Of several drawings of one thing in Streamline (egg-1, egg-2), the first counts."""
    return icon.removesuffix("-1") if set_name == "streamline-emojis" else icon


def _names(emoji: list[Emoji]) -> dict[str, set[str]]:
    """All the names that something is known by, squashed, with the code points they stand for."""
    names: dict[str, set[str]] = defaultdict(set)
    formal = read(UNICODE, "meta/unicode-names.json")
    for e in emoji:
        names[squashed(formal.get(e.code_point, e.name))].add(e.code_point)
    codes = {_bare(e.code_point): e.code_point for e in emoji}
    for drawings in SETS.values():
        of_icon: dict[str, set[str]] = defaultdict(set)
        for code, icon in read(drawings.package, "chars.json").items():
            if _bare(code) in codes:
                of_icon[icon].add(codes[_bare(code)])
        for alias, how in read(drawings.package, "icons.json").get("aliases", {}).items():
            if how.keys() == {"parent"}:  # and not turned or mirrored
                of_icon[alias] |= of_icon.get(how["parent"], set())
        for icon, of in of_icon.items():
            names[squashed(icon)] |= of
    return names


def _bare(code: str) -> str:
    """A code point without variation selectors, which sets keep or leave out."""
    return "-".join(p for p in code.upper().lstrip("0").split("-") if p not in ("FE0E", "FE0F"))


def license_of(set_name: str) -> dict[str, Any]:
    """What the package says of its set: ``author``, ``license`` with ``spdx`` and ``url``."""
    return read(SETS[set_name].package, "info.json")
