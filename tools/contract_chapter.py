"""What a chapter, and no appendix, keeps to: how it begins, how it checks; see ``contract.py``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from contract_code import CHECKED, IDEA, code_cells, imported, made_and_taken, parsed, tagged
from contract_shape import OWN, exercise_parts, predicts, sections, titled, within
from contract_text import page_prose, words
from nbformat import NotebookNode

CHAPTER = ("In one minute", OWN, "Pitfalls", "Exercises", "Summary", "Checked on this page")
WORDS, CELLS = (1000, 2400), (10, 22)
PREDICTIONS, COMPARISONS, EXERCISES = 4, 2, 3
FOLDED = ("hide-cell", "hide-output")


def shown(cell: NotebookNode) -> bool:
    """Whether a reader sees the code of a cell without unfolding it."""
    return not (tagged(cell, "hide-cell") or tagged(cell, "hide-input"))


def picture_first(notebook: NotebookNode) -> Iterator[str]:
    """A schematic stands under the title, before the first section; its code is folded."""
    for cell in notebook.cells:
        if "figure" in cell.metadata.get("mystnb", {}):
            if shown(cell):
                yield "the code of the first figure must be folded"
            return
        if re.search(r"(?m)^## ", cell.source) and cell.cell_type == "markdown":
            break
    yield "needs a figure before the first section"


def idea(notebook: NotebookNode) -> Iterator[str]:
    """One cell with the whole idea in plain PyTorch: short, shown, and without our helpers."""
    ours, cells = set(), {cell.id: cell for cell in code_cells(notebook)}
    if IDEA not in cells:
        yield f"needs a code cell with the id {IDEA!r}"
        return
    for _, _, tree in parsed(notebook):
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and "metalearn_tut" in imported(node):
                ours |= {alias.asname or alias.name for alias in node.names}
    cell = cells[IDEA]
    if not shown(cell):
        yield "the idea must be shown"
    taken = made_and_taken(cell.source)[1] & ours
    if taken:
        yield f"the idea must be plain PyTorch, and takes {', '.join(sorted(taken))}"


def quiet(notebook: NotebookNode) -> Iterator[str]:
    """Checks do not interrupt: folded at the end, but for two comparisons."""
    visible = 0
    for number, cell, tree in parsed(notebook):
        calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        if not any(tagged(cell, tag) for tag in FOLDED):
            visible += calls.count("nb.compare")
        if shown(cell) and any(isinstance(n, ast.Assert) for n in ast.walk(tree)):
            yield f"code cell {number} asserts where a reader looks on: assert in a folded cell"
    if visible > COMPARISONS:
        yield f"{visible} comparisons are shown, {COMPARISONS} are allowed"
    cells = [cell for cell in code_cells(notebook) if cell.id == CHECKED]
    if not cells or not tagged(cells[0], "hide-cell") or notebook.cells[-1] is not cells[0]:
        yield f"the last cell must have the id {CHECKED!r} and be folded (hide-cell)"


def predictions(notebook: NotebookNode) -> Iterator[str]:
    """Few, and the answer is folded."""
    count = 0
    for cell, answer in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if predicts(cell):
            count += 1
            if answer is None or answer.cell_type != "code" or not tagged(answer, "hide-output"):
                yield f"the prediction in cell {cell.id!r} needs a cell with hide-output below it"
    if count > PREDICTIONS:
        yield f"{count} predictions, {PREDICTIONS} are allowed"


def frame(notebook: NotebookNode, name: str) -> Iterator[str]:
    """The line under the title, and what the summary ends with."""
    yield from titled(notebook, name)
    summary = page_prose(notebook).rpartition("## Summary")[2]
    for part in ("**Further reading.**", "[Open an issue about this page]("):
        if part not in summary:
            yield f"the summary needs {part!r}"


def length(notebook: NotebookNode) -> Iterator[str]:
    """Short enough to be read at one sitting."""
    exercises = sum(part.kind == "exercise" for part in exercise_parts(notebook))
    yield from within("words", words(page_prose(notebook)), WORDS)
    yield from within("code cells", len(code_cells(notebook)), CELLS)
    yield from within("exercises", exercises, (EXERCISES, EXERCISES))


def chapter(notebook: NotebookNode, name: str) -> Iterator[str]:
    """All that only a chapter is asked for."""
    yield from sections(notebook, CHAPTER)
    yield from picture_first(notebook)
    yield from idea(notebook)
    yield from quiet(notebook)
    yield from predictions(notebook)
    yield from frame(notebook, name)
    yield from length(notebook)
