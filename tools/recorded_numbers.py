"""Numbers in a chapter's text that come from ``results/``: ``python tools/recorded_numbers.py``.

A cell says in its metadata which of its numbers are recorded where, and how they are written::

    "recorded": {"0.662": "emoji/baselines.json values.rows.0.accuracy .3f"}

The text, captions and alternative texts hold the number as it is read; when a result changes, it
is changed there, by this command, by ``make format`` and in every build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[1]


def read(source: str, results: Path) -> str:
    """The number at ``FILE KEYS FORMAT``, written out."""
    name, keys, form = source.split()
    found: Any = json.loads((results / name).read_text("utf-8"))
    for key in keys.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return format(found, form)


def _pattern(number: str) -> str:
    return rf"(?<![\d.,]){re.escape(number)}(?![\d]|[.,]\d)"


def _texts(cell: nbformat.NotebookNode) -> list[tuple[Any, str]]:
    """Where a cell has text: a container and the key in it."""
    mystnb = cell.metadata.get("mystnb", {})
    places = [(cell, "source")] if cell.cell_type == "markdown" else []
    places += [(mystnb["figure"], "caption")] if "caption" in mystnb.get("figure", {}) else []
    return places + ([(mystnb["image"], "alt")] if "alt" in mystnb.get("image", {}) else [])


def refresh(notebook: nbformat.NotebookNode, results: Path = ROOT / "results") -> list[str]:
    """Bring the recorded numbers of a notebook up to date; one sentence for each that was not.

    Raises
    ------
    ValueError
        If a number is nowhere in its cell, so that nobody could say where it belongs.
    """
    stale = []
    for cell in notebook.cells:
        recorded = cell.metadata.get("recorded", {})
        for number, source in list(recorded.items()):
            places = [p for p in _texts(cell) if re.search(_pattern(number), p[0][p[1]])]
            if not places:
                raise ValueError(f"cell {cell.id!r} says that {number} is recorded, and has it not")
            now = read(source, results)
            if now != number:
                stale.append(f"cell {cell.id!r} has {number}, and {source} is {now}")
                recorded[now] = recorded.pop(number)
                for place, key in places:
                    place[key] = re.sub(_pattern(number), now, place[key])
    return stale


if __name__ == "__main__":
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if changes := refresh(notebook):
            nbformat.write(notebook, path)
            print(*(f"{path.name}: {change}" for change in changes), sep="\n")
