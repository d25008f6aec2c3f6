"""The table of the page "Use the package": shipped learners, and what they were measured at."""

from __future__ import annotations

from benchmarks_text import table
from shipped import measured

from metalearn_tut import pretrained

TESTED = {
    "glyphs": "characters of scripts held out",
    "omniglot": "characters of three alphabets held out",
    "emoji": "emoji held out, queries by other artists",
}


def generated() -> dict[str, str]:
    """The parts of the page, by name."""
    head = ["name", "file", "tested on", "right", "transductive"]
    return {"learners": table(head, [row(name) for name in pretrained.available()])}


def row(name: str) -> list[str]:
    """What is said of one learner."""
    size = f"{pretrained.path(name).stat().st_size / 1000:.0f}\u00a0kB"
    modes = (measured(name, cross_artist=True), measured(name, norm="batch"))
    alone, together = ("–" if of is None else percent(*of[:2]) for of in modes)
    return [f"`{name}`", size, TESTED[name.split("_")[0]], alone, together]


def percent(mean: float, half: float) -> str:
    """An accuracy and its interval."""
    return f"{100 * mean:.1f} ± {100 * half:.1f}\u00a0%"
