"""The shape of a chapter: its sections, its length, its exercises; see ``contract.py``."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from contract_code import code_cells, tagged
from contract_text import page_prose, words
from nbformat import NotebookNode

OWN = "..."  # one or more sections that only this chapter has
APPENDIX = ("The question", OWN, "Exercises", "Summary")
WORDS, CELLS, MEDIAN_LINES = (300, 2000), (5, 40), (1, 12)


def is_appendix(name: str) -> bool:
    """Whether a notebook is an appendix: ``A1_...``; chapters are ``01_...``."""
    return name.startswith("A")


def headings(notebook: NotebookNode) -> list[tuple[int, str]]:
    """Level and text of every heading."""
    text = re.sub(r"^(`{3,}).*?^\1\s*$", "", page_prose(notebook), flags=re.MULTILINE | re.DOTALL)
    return [(len(hashes), title) for hashes, title in re.findall(r"(?m)^(#+)\s+(.*?)\s*$", text)]


def sections(notebook: NotebookNode, skeleton: tuple[str, ...]) -> Iterator[str]:
    """One title, no level left out, and the sections of the skeleton in its order."""
    found = headings(notebook)
    levels = [level for level, _ in found]
    if levels.count(1) != 1 or not notebook.cells[0].source.startswith("# "):
        yield "needs one title, # and a name, at its very start"
    for (above, _), (level, title) in pairwise(found):
        if level > above + 1:
            yield f"heading {title!r} leaves out a level"
    start, end = skeleton[: skeleton.index(OWN)], skeleton[skeleton.index(OWN) + 1 :]
    names = tuple(title for level, title in found if level == 2)
    own = names[len(start) : -len(end)]
    if names != (*start, *own, *end) or not own:
        yield f"sections must be {'; '.join(skeleton)}, and are {'; '.join(names)}"


def appendix(notebook: NotebookNode, name: str) -> Iterator[str]:
    """All that only an appendix is asked for: a frame, small cells, predictions at their answer."""
    yield from sections(notebook, APPENDIX)
    yield from titled(notebook, name)
    if "[Open an issue about this page](" not in notebook.cells[-1].source:
        yield "the last cell needs '[Open an issue about this page]('"
    lines = [cell.source.count("\n") + 1 for cell in code_cells(notebook)]
    yield from within("words", words(page_prose(notebook)), WORDS)
    yield from within("code cells", len(lines), CELLS)
    yield from within("lines in the median cell", statistics.median(lines or [0]), MEDIAN_LINES)
    for cell, answer in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if predicts(cell) and (answer is None or answer.cell_type != "code"):
            yield f"the prediction in cell {cell.id!r} stands before no code cell"


def predicts(cell: NotebookNode) -> bool:
    """Whether a cell asks the reader for a prediction."""
    return cell.cell_type == "markdown" and bool(re.search(r"(?m)^\*\*Predict", cell.source))


def titled(notebook: NotebookNode, name: str) -> Iterator[str]:
    """The line under the title."""
    if not re.search(
        r"^CPU · about \d+ s · needs .+ · \[open it in Colab\]"
        rf"\(https://colab\.research\.google\.com/github/\S+/book/{name}\.ipynb\)$",
        notebook.cells[0].source,
        re.MULTILINE,
    ):
        yield "the title cell needs 'CPU · about N s · needs …' and the page's own Colab link"


def within(what: str, number: float, limits: tuple[int, int]) -> Iterator[str]:
    """A sentence about a number that is not within its limits."""
    least, most = limits
    if not least <= number <= most:
        allowed = f"{least} to {most} are" if most > least else f"{most} are"
        yield f"{number:g} {what}, {allowed} allowed"


@dataclass
class Part:
    """An exercise or a solution, and the code cells within its gates."""

    kind: str
    label: str
    text: str
    cells: list[NotebookNode] = field(default_factory=list)

    @property
    def checks(self) -> set[str]:
        """The functions ``check_...`` that the cells call."""
        nodes = [node for cell in self.cells for node in ast.walk(ast.parse(cell.source))]
        calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
        return {c.split(".")[-1] for c in calls if c.split(".")[-1].startswith("check_")}


def exercise_parts(notebook: NotebookNode) -> list[Part]:
    """Exercises and solutions in order."""
    parts: list[Part] = []
    within = False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if within:
                parts[-1].cells.append(cell)
            continue
        for piece in re.split(r"(?m)^(?=:{3,}\{(?:exercise|solution))", cell.source):
            if head := re.match(r":{3,}\{(exercise|solution)(-start|-end)?\}\s*(.*)", piece):
                within = head[2] == "-start"
                if head[2] != "-end":
                    label = re.search(r"(?m)^:label:\s*(\S+)", piece)
                    parts.append(Part(head[1], label[1] if label else head[3], piece))
    return parts


def exercises(notebook: NotebookNode) -> Iterator[str]:
    """Every exercise has a solution that passes the exercise's own check, unless it is open."""
    parts = exercise_parts(notebook)
    solutions = {part.label: part for part in parts if part.kind == "solution"}
    asked = [part for part in parts if part.kind == "exercise"]
    if not asked:
        yield "has no exercise"
    for part in asked:
        if "Open-ended." in part.text and not part.checks:
            continue
        if part.label not in solutions:
            yield f"exercise {part.label!r} has no solution"
        elif not part.checks:
            yield f"exercise {part.label!r} calls no check_..."
        elif part.checks != solutions[part.label].checks:
            yield f"exercise {part.label!r} and its solution must call the same check"
    for part in solutions.values():
        if part.label not in {exercise.label for exercise in asked}:
            yield f"solution {part.label!r} belongs to no exercise"
        if not all(tagged(cell, "solution") for cell in part.cells):
            yield f"a code cell of solution {part.label!r} lacks the tag solution"
