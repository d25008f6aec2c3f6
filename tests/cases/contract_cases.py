"""A chapter that keeps the contract, to be broken in one way at a time."""

from __future__ import annotations

import contract
import format_notebooks
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SETUP = (contract.BOOK / "first_cell.py").read_text("utf-8")
NAME, APPENDIX = "02_a_chapter", "A1_an_appendix"
AROUND = contract.Around(
    first_cell=SETUP,
    declared={"matplotlib", "torch"},
    notation=(
        "| symbol | meaning | in the code |\n"
        r"| $\theta,\ \mathcal S_i$ | parameters, a support set | |" + "\n"
        r"| $\bar a < b$ | two numbers, in chapters 2 and 3, and in appendix A1 | |" + "\n"
        "| $z$ | a number, in chapter 12 | |"
    ),
    glossary="```{glossary}\ninner loop\n  Steps.\n\nMAML\n  A method.\n\nway\n  A class.\n```",
)

FIGURE = {
    "figure": {"name": "fig-path", "caption": "Five steps."},
    "image": {"alt": "A point that moves towards the minimum in ever smaller steps."},
}
TITLE = f"""# A chapter

After MAML you know MAML.

CPU · about 20 s · needs chapter 1 · [open it in Colab](https://colab.research.google.com/github/a/b/blob/main/book/{NAME}.ipynb)"""
EXERCISE = """## Exercises

:::{exercise-start} One
:label: ex-one
:::

Do it."""
SOLUTION = """:::{exercise-end}
:::

:::{solution-start} ex-one
:class: dropdown
:::

So."""
AFTER = """:::{solution-end}
:::

:::{exercise} Two
:label: ex-two

Open-ended. What if?
:::

:::{exercise} Three
:label: ex-three

Open-ended. And then?
:::"""
SUMMARY = """## Summary

**Further reading.** {cite:p}`finn2017maml`.

[Open an issue about this page](https://a.b)"""
IMPORTS = """import torch

from metalearn_tut import nb
from metalearn_tut.nb import plots"""
MINE = "def my_one(x):\n    raise NotImplementedError\n\n\nnb.check_one(my_one)"
SOLVED = "def one(x):\n    return x\n\n\nnb.check_one(one)"


def code(source: str, name: str, *tags: str, **metadata: object) -> nbformat.NotebookNode:
    """A code cell with an id."""
    return new_code_cell(source, id=name, metadata={"tags": list(tags), **metadata})


def chapter(*cells: nbformat.NotebookNode, name: str = NAME) -> nbformat.NotebookNode:
    """A notebook that keeps the contract, and ``cells`` before its pitfalls."""
    prose = "\n\n".join(f"## {title}\n\n" + "word " * 520 for title in ("A finding", "Another"))
    formula = r"Let $\frac12 \bar a < b^{\mathcal S_1}$."
    every = [
        new_markdown_cell(TITLE.replace(NAME, name)),
        code(SETUP.rstrip("\n"), "setup", "hide-input"),
        code(IMPORTS, "imports", "hide-input"),
        code("plots.curve([1, 2])", "fig-first", "hide-input", mystnb=FIGURE),
        new_markdown_cell("## In one minute\n\nWhat it is, in short."),
        new_markdown_cell(f"{prose}\n\n{formula}"),
        code("def step(w):\n    return torch.sin(w)", "idea"),
        new_markdown_cell("**Predict:** is it small?"),
        code("print(torch.ones(2))", "answer", "hide-output"),
        code("nb.compare('a', 1, 1)\nnb.compare('b', 1, 1)", "two"),
        code("found = 1", "found"),
        code("print(found)", "shown"),
        *cells,
        new_markdown_cell("## Pitfalls\n\nMany."),
        code("print(1)", "pitfall"),
        new_markdown_cell(EXERCISE),
        code(MINE, "mine"),
        new_markdown_cell(SOLUTION),
        code(SOLVED, "solved", "solution"),
        new_markdown_cell(AFTER),
        new_markdown_cell(SUMMARY),
        new_markdown_cell("## Checked on this page\n\nFolded."),
        code("nb.compare('c', 1, 1)\nassert True", "checked", "hide-cell"),
    ]
    return format_notebooks.formatted(new_notebook(cells=every), SETUP.rstrip("\n"))


def appendix() -> nbformat.NotebookNode:
    """A notebook that keeps what an appendix is asked for."""
    cells = [
        new_markdown_cell(TITLE.replace(NAME, APPENDIX)),
        code(SETUP.rstrip("\n"), "setup"),
        code(IMPORTS, "imports"),
        new_markdown_cell("## The question\n\n" + "word " * 300 + "**Predict:** No."),
        new_markdown_cell("## The loop\n\n**Predict:** is it small?"),
        code("print(torch.ones(2))", "answer"),
        code("nb.compare('a', 1, 1)", "one"),
        new_markdown_cell(EXERCISE),
        code(MINE, "mine"),
        new_markdown_cell(SOLUTION),
        code(SOLVED, "solved", "solution"),
        new_markdown_cell(f"{AFTER}\n\n{SUMMARY}"),
    ]
    return format_notebooks.formatted(new_notebook(cells=cells), SETUP.rstrip("\n"))


def broken(notebook: nbformat.NotebookNode, name: str = NAME) -> str:
    """The breaches, in one line."""
    return "; ".join(contract.breaches(notebook, name, AROUND))


def cell_with(notebook: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode:
    """The first cell whose source has this text."""
    return next(cell for cell in notebook.cells if text in cell.source)


def replaced(old: str, new: str) -> str:
    """The breaches after a replacement in one cell."""
    notebook = chapter()
    cell = cell_with(notebook, old)
    cell.source = cell.source.replace(old, new)
    return broken(notebook)


def changed(text: str, source: str | None = None, *tags: str) -> str:
    """The breaches after the cell with ``text`` got another source, and these tags alone."""
    notebook = chapter()
    cell = cell_with(notebook, text)
    cell.source = cell.source if source is None else source
    if cell.cell_type == "code":
        cell.metadata["tags"] = list(tags)
    return broken(notebook)
