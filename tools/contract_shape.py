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
CHAPTER = (
    "The question",
    "Smallest case by hand",
    OWN,
    "Same as the reference module",
    "See the mechanism",
    "Take the idea away",
    "What could go wrong",
    "Does it help, and when not",
    "Exercises",
    "Summary",
)
APPENDIX = ("The question", OWN, "Exercises", "Summary")
WORDS, APPENDIX_WORDS = (1800, 3000), (300, 2000)
CELLS, APPENDIX_CELLS = (18, 40), (5, 40)
MEDIAN_LINES = 12
PREDICTIONS = 3


def is_appendix(name: str) -> bool:
    """Whether a notebook is an appendix: ``A1_...``; chapters are ``01_...``."""
    return name.startswith("A")


def skeleton_of(name: str) -> tuple[str, ...]:
    """The sections of a notebook in the form of the first edition."""
    return APPENDIX if is_appendix(name) else CHAPTER


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


def frame(notebook: NotebookNode, name: str) -> Iterator[str]:
    """What stands under the title, and at the end of the page."""
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    if not re.search(
        r"^CPU · about \d+ s · needs .+ · \[open it in Colab\]"
        rf"\(https://colab\.research\.google\.com/github/\S+/book/{name}\.ipynb\)$",
        first,
        re.MULTILINE,
    ):
        yield "the title cell needs 'CPU · about N s · needs …' and the page's own Colab link"
    ending = ("[Open an issue about this page](",)
    if not is_appendix(name):
        ending += ("**Questions.**", "**Further reading.**")
    yield from (f"the last cell needs {part!r}" for part in ending if part not in last)


def length(notebook: NotebookNode, name: str) -> Iterator[str]:
    """Neither too short to explain nor too long to read; small cells."""
    lines = [cell.source.count("\n") + 1 for cell in code_cells(notebook)]
    appendix = is_appendix(name)
    for what, number, (least, most) in (
        ("words", words(page_prose(notebook)), APPENDIX_WORDS if appendix else WORDS),
        ("code cells", len(lines), APPENDIX_CELLS if appendix else CELLS),
        ("lines in the median cell", statistics.median(lines or [0]), (1, MEDIAN_LINES)),
    ):
        if not least <= number <= most:
            yield f"{number:g} {what}, {least} to {most} are allowed"


def predictions(notebook: NotebookNode, name: str) -> Iterator[str]:
    """Predictions stand right before the cell that answers them."""
    count, cells = 0, notebook.cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown" and re.search(r"(?m)^\*\*Predict", cell.source):
            count += 1
            if number + 1 == len(cells) or cells[number + 1].cell_type != "code":
                yield f"the prediction in cell {cell.id!r} stands before no code cell"
    if count < PREDICTIONS and not is_appendix(name):
        yield f"{count} predictions, at least {PREDICTIONS} are needed"


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
