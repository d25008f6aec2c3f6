"""Cells that are run from first to last and back, and what they then show."""

from __future__ import annotations

import re

from contract_code import code_cells
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook


def there_and_back(notebook: NotebookNode) -> NotebookNode:
    """All code cells from first to last, then from last to first.

    On the way back a cell finds what all others have left behind, those below it twice.
    """
    there = code_cells(notebook)
    back = [new_code_cell(cell.source) for cell in reversed(there)]
    return new_notebook(cells=[*there, *back])


def changed(both_ways: NotebookNode) -> set[str]:
    """Which cells of an executed :func:`there_and_back` showed something else on the way back."""
    cells = both_ways.cells
    pairs = zip(cells[: len(cells) // 2], reversed(cells), strict=False)
    return {there.id for there, back in pairs if _shown(there) != _shown(back)}


def _shown(cell: NotebookNode) -> list:
    """What a cell printed, up to the seconds that something took, and what it drew."""
    streams = [out.text for out in cell.outputs if out.get("name") == "stdout"]
    text = re.sub(r"\d+(\.\d+)? (ms|s)\b", "(time)", "".join(streams))
    return [text, *(dict(out.data) for out in cell.outputs if "data" in out)]
