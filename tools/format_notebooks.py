"""Bring the notebooks into the form in which they are kept: ``python tools/format_notebooks.py``.

No outputs, no execution counts, one kernel name, the same first code cell everywhere, that of
``book/first_cell.py``, and the numbers that ``results/`` has now.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from contract_code import code_cells
from recorded_numbers import refresh

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def formatted(notebook: nbformat.NotebookNode, first_cell: str) -> nbformat.NotebookNode:
    """The notebook as it is kept, made in place."""
    code = code_cells(notebook)
    for cell in code:
        cell.outputs, cell.execution_count = [], None
        for key in ("collapsed", "execution", "ExecuteTime", "scrolled", "id", "outputId"):
            cell.metadata.pop(key, None)
    if code and code[0].source.startswith("# Setup"):
        code[0].source = first_cell
        code[0].metadata["tags"] = ["hide-input"]
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(book: Path) -> None:
    """Rewrite the notebooks that are not yet in this form, and name them."""
    first_cell = (book / "first_cell.py").read_text("utf-8").rstrip("\n")
    for path in sorted(book.glob("*.ipynb")):
        before = path.read_text("utf-8")
        notebook = formatted(nbformat.reads(before, as_version=4), first_cell)
        refresh(notebook)
        after = nbformat.writes(notebook) + "\n"
        if after != before:
            path.write_text(after, "utf-8")
            print(f"{path.name}: formatted")


if __name__ == "__main__":
    main(Path(__file__).parents[1] / "book")
