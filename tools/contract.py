"""What every chapter keeps to, read from its source; tests/book/test_book_contract.py applies it.

Each rule takes a notebook and yields one sentence per breach: those on its file stand here, those
on code, shape and text in ``contract_code.py``, ``contract_shape.py`` and ``contract_text.py``,
that on times in ``contract_clock.py``; what only chapters keep to is in ``contract_chapter.py``,
and symbols, over all chapters, in ``contract_symbols.py``.
What can be seen only after a run (every cell ran, every figure is on its page, the comparisons
were made) is checked by ``check_book.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from contract_chapter import chapter
from contract_clock import clock
from contract_code import code, code_cells, exercise_names, figures, optional_data, order
from contract_shape import appendix, exercises, is_appendix
from contract_text import glossary_terms, markup, page_prose, spelling, unexplained, unlinked
from format_notebooks import METADATA
from nbformat import NotebookNode

BOOK = Path(__file__).parents[1] / "book"
TAGS = {"hide-input", "hide-output", "hide-cell", "remove-output", "raises-exception", "solution"}


def kept_form(notebook: NotebookNode) -> Iterator[str]:
    """No outputs, cell ids, one kernel: what ``make format`` makes."""
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield f"notebook format {notebook.nbformat}.{notebook.nbformat_minor}, 4.5 is needed"
    elif len({cell.get("id") for cell in notebook.cells}) < len(notebook.cells):
        yield "cells need ids of their own"
    if notebook.metadata.get("kernelspec", {}) != METADATA["kernelspec"]:
        yield "the kernel must be python3: run make format"
    if any(cell.outputs or cell.execution_count for cell in code_cells(notebook)):
        yield "kept with outputs or execution counts: run make format"


def first_cell(notebook: NotebookNode, expected: str) -> Iterator[str]:
    """The same first code cell everywhere."""
    cells = code_cells(notebook)
    if not cells or cells[0].source.rstrip("\n") != expected.rstrip("\n"):
        yield "the first code cell is not that of book/first_cell.py"


def tags(notebook: NotebookNode) -> Iterator[str]:
    """Only tags that hide or fold; none that keeps a cell from being run or compared."""
    for cell in notebook.cells:
        for tag in sorted(set(cell.metadata.get("tags", [])) - TAGS):
            yield f"tag {tag!r} is not one of {', '.join(sorted(TAGS))}"
        if "NBVAL_" in cell.source:
            yield "an NBVAL_ comment keeps a cell from being checked"


def shown_text(notebook: NotebookNode) -> str:
    """Text cells, captions and alternative texts."""
    captions = []
    for cell in code_cells(notebook):
        mystnb = cell.metadata.get("mystnb", {})
        captions += [mystnb.get("figure", {}).get("caption", "")]
        captions += [mystnb.get("image", {}).get("alt", "")]
    return "\n\n".join([page_prose(notebook), *filter(None, captions)])


@dataclass
class Around:
    """What chapters share: first cell, declared dependencies, notation and glossary pages."""

    first_cell: str
    declared: set[str]
    notation: str
    glossary: str


def breaches(notebook: NotebookNode, name: str, around: Around) -> list[str]:
    """Everything that breaks the contract in the notebook ``name`` (``"02_bilevel_maml"``)."""
    found = [*first_cell(notebook, around.first_cell), *code(notebook, around.declared)]
    for of_any in (
        kept_form,
        tags,
        markup,
        figures,
        order,
        optional_data,
        exercise_names,
        clock,
        exercises,
    ):
        found += of_any(notebook)
    found += appendix(notebook, name) if is_appendix(name) else chapter(notebook, name)
    number = name.partition("_")[0].lstrip("0")
    found += spelling(shown_text(notebook))
    found += unexplained(notebook, around.notation, number)
    return [*found, *unlinked(notebook, glossary_terms(around.glossary))]


def page_text(path: Path) -> str:
    """The text of a page, Markdown or notebook."""
    if path.suffix == ".ipynb":
        return shown_text(nbformat.read(path, as_version=4))
    return path.read_text("utf-8")


def pages(book: Path = BOOK) -> list[Path]:
    """All pages of the book, in the order of their names."""
    found = [*book.glob("*.ipynb"), *book.rglob("*.md")]
    return sorted(path for path in found if not path.relative_to(book).parts[0].startswith("_"))
