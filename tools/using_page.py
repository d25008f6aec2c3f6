"""The table of the page "Use the package": shipped learners, and what they were measured at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks_text import table

from metalearn_tut import pretrained

RESULTS = Path(__file__).parents[1] / "results"
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
    alone, together = ("–" if of is None else percent(*of) for of in measured(name))
    return [f"`{name}`", size, TESTED[name.split("_")[0]], alone, together]


def percent(mean: float, half: float) -> str:
    """An accuracy and its interval."""
    return f"{100 * mean:.1f} ± {100 * half:.1f}\u00a0%"


def measured(name: str) -> Iterator[tuple[float, float] | None]:
    """Accuracy and half of its interval: each query alone; and all queries together."""
    (file,) = RESULTS.glob(f"*/{name}.json")
    values: dict[str, Any] = json.loads(file.read_text("utf-8"))["values"]
    if "rows" in values:
        (of,) = (r for r in values["rows"] if r["ways"] == 5 and r["cross_artist"])
        yield of["accuracy"], of["half_width"]
        yield None
    else:
        for norm in ("support", "batch"):
            yield values[norm]["mean"], values[norm]["half_width"]
