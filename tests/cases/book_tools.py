"""A chapter's own code, taken out of its notebook to be run on other inputs, or spoiled."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import contract_code
import nbformat

BOOK = Path(__file__).parents[2] / "book"


def code_cells(chapter: str) -> dict[str, str]:
    """The code cells of ``book/<chapter>.ipynb`` in order, by their ids."""
    notebook = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    return {cell.id: cell.source for cell in contract_code.code_cells(notebook)}


def run(
    chapter: str, *ids: str, plant: tuple[str, str] | None = None, **given: Any
) -> dict[str, Any]:
    """Run some cells of a chapter in a namespace that has all its imports and definitions.

    Parameters
    ----------
    chapter : str
        The notebook's name without its suffix.
    *ids : str
        The cells to run, in this order; by default none.
    plant : (old, new), optional
        An error to plant: ``old`` must occur once in the notebook.
    **given : Any
        What the cells find from cells that are not run.

    Returns
    -------
    dict
        The namespace.
    """
    cells = code_cells(chapter)
    parts = [_imports_and_definitions(cells), *(cells[i] for i in ids)]
    if plant is not None:
        whole = "\n".join(cells.values())
        assert whole.count(plant[0]) == 1, f"{whole.count(plant[0])} times in {chapter}: {plant[0]}"
        parts = [part.replace(*plant) for part in parts]
    space: dict[str, Any] = {"__name__": chapter}
    for n, part in enumerate(parts):
        exec(compile(part, f"<{chapter}, {('definitions', *ids)[n]}>", "exec"), space)
        if n == 0:
            space.update(given)
    return space


def printed_by(run: Callable[..., Any], comparing: dict[str, Sequence[str]], capsys: Any) -> str:
    """What ``run`` prints for each of the lists of cells that comparisons need."""
    for cells in sorted({tuple(cells) for cells in comparing.values()}):
        run(*cells)
    return capsys.readouterr().out


def compared(printed: str) -> set[str]:
    """The names of the comparisons that ``nb.compare`` reported as ok."""
    return {line[4:].split(":")[0] for line in printed.splitlines() if line.startswith("ok  ")}


def _imports_and_definitions(cells: dict[str, str]) -> str:
    """The imports of the second cell, and every function and class of the notebook."""
    second = list(cells.values())[1]
    wanted = [(second, (ast.Import, ast.ImportFrom))]
    wanted += [(source, (ast.FunctionDef, ast.ClassDef)) for source in cells.values()]
    pieces = [
        ast.get_source_segment(source, node)
        for source, kinds in wanted
        for node in ast.parse(source).body
        if isinstance(node, kinds)
    ]
    return "\n\n".join(pieces)
