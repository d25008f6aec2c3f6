"""A chapter that keeps the contract of the second edition, to be broken in one way at a time."""

from __future__ import annotations

import contract
import format_notebooks
import nbformat
from contract_cases import AFTER, AROUND, EXERCISE, FIGURE, SETUP, SOLUTION, TITLE, cell_with
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NAME = "01_few_shot_tasks"
SUMMARY = """## Summary

**Further reading.** {cite:p}`finn2017maml`.

[Open an issue about this page](https://a.b)"""
THIRD = """:::{exercise} Three
:label: ex-three

Open-ended. And then?
:::"""


def code(source: str, name: str, *tags: str, **metadata: object) -> nbformat.NotebookNode:
    """A code cell with an id."""
    return new_code_cell(source, id=name, metadata={"tags": list(tags), **metadata})


def chapter() -> nbformat.NotebookNode:
    """A notebook that keeps the contract."""
    imports = "import torch\n\nfrom metalearn_tut import nb\nfrom metalearn_tut.nb import plots"
    prose = "\n\n".join(f"## {title}\n\n" + "word " * 520 for title in ("A finding", "Another"))
    cells = [
        new_markdown_cell(TITLE.replace("02_a_chapter", NAME)),
        code(SETUP.rstrip("\n"), "setup", "hide-input"),
        code(imports, "imports", "hide-input"),
        code("plots.curve([1, 2])", "fig-first", "hide-input", mystnb=FIGURE),
        new_markdown_cell("## In one minute\n\n{term}`MAML`, in short."),
        new_markdown_cell(prose),
        code("def step(w):\n    return torch.sin(w)", "idea"),
        new_markdown_cell("**Predict:** is it small?"),
        code("print(torch.ones(2))", "answer", "hide-output"),
        code("nb.compare('a', 1, 1)\nnb.compare('b', 1, 1)", "two"),
        new_markdown_cell("## Pitfalls\n\nMany."),
        code("print(1)", "pitfall"),
        new_markdown_cell(EXERCISE),
        code("def my_one(x):\n    raise NotImplementedError\n\n\nnb.check_one(my_one)", "mine"),
        new_markdown_cell(SOLUTION),
        code("def one(x):\n    return x\n\n\nnb.check_one(one)", "solved", "solution"),
        new_markdown_cell(f"{AFTER}\n\n{THIRD}"),
        new_markdown_cell(SUMMARY),
        new_markdown_cell("## Checked on this page\n\nFolded."),
        code("nb.compare('c', 1, 1)\nassert True", "checked", "hide-cell"),
    ]
    return format_notebooks.formatted(new_notebook(cells=cells), SETUP.rstrip("\n"))


def broken(notebook: nbformat.NotebookNode) -> str:
    """The breaches, in one line."""
    return "; ".join(contract.breaches(notebook, NAME, AROUND))


def changed(text: str, source: str | None = None, *tags: str) -> str:
    """The breaches after the cell with ``text`` got another source, and these tags alone."""
    notebook = chapter()
    cell = cell_with(notebook, text)
    cell.source = cell.source if source is None else source
    if cell.cell_type == "code":
        cell.metadata["tags"] = list(tags)
    return broken(notebook)
