"""A chapter that keeps the contract, to be broken in one way at a time."""

from __future__ import annotations

import re

import contract
import contract_shape
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
:::"""
SUMMARY = """## Summary

**Questions.** Why?

**Further reading.** {cite:p}`finn2017maml`.

[Open an issue about this page](https://a.b)"""


def section(title: str) -> list[nbformat.NotebookNode]:
    """A heading, 220 words, a formula, a prediction, and two cells."""
    text = rf"## {title}" + "\n\n" + "word " * 220 + r"$\frac12 \bar a < b^{\mathcal S_1}$."
    text += "\n\n**Predict:** is it small?"
    name = "".join(filter(str.isalpha, title)).lower()
    return [new_markdown_cell(text), new_code_cell(f"{name} = 1"), new_code_cell(f"print({name})")]


def chapter(*cells: nbformat.NotebookNode, name: str = NAME) -> nbformat.NotebookNode:
    """A notebook that keeps the contract, and ``cells`` before its mechanism."""
    sections = [title for title in contract_shape.CHAPTER[:-2] if title != contract_shape.OWN]
    at = sections.index("Same as the reference module")
    sections.insert(at, "The loop")
    body = {title: section(title) for title in sections}
    body["See the mechanism"][:0] = cells
    start = [
        new_markdown_cell(TITLE.replace(NAME, name)),
        new_code_cell(SETUP.rstrip("\n")),
        new_code_cell(
            "import matplotlib.pyplot as plt\nimport torch\n\nfrom metalearn_tut import nb"
        ),
    ]
    body["The question"].append(new_code_cell("plt.plot([1, 2])", metadata={"mystnb": FIGURE}))
    end = [
        new_markdown_cell(EXERCISE),
        new_code_cell("def my_one(x):\n    raise NotImplementedError\n\n\nnb.check_one(my_one)"),
        new_markdown_cell(SOLUTION),
        new_code_cell(
            "def one(x):\n    return x\n\n\nnb.check_one(one)", metadata={"tags": ["solution"]}
        ),
        new_markdown_cell(AFTER),
        new_code_cell("print('Well done.')"),
        new_markdown_cell(SUMMARY),
    ]
    every = [*start, *(cell for cells_ in body.values() for cell in cells_), *end]
    return format_notebooks.formatted(new_notebook(cells=every), SETUP.rstrip("\n"))


def appendix() -> nbformat.NotebookNode:
    """The same with only the sections that an appendix needs, and one of its own."""
    notebook, kept = chapter(name=APPENDIX), True
    cells, notebook.cells = notebook.cells, []
    for cell in cells:
        if title := re.match("## (.*)", cell.source):
            kept = title[1] in (*contract_shape.APPENDIX, "The loop")
        if kept:
            notebook.cells.append(cell)
    return notebook


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
