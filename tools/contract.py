"""What every chapter keeps to, read from its source; tests/test_book_contract.py applies it.

Each function takes a notebook and yields one sentence per breach. What can be seen only after a
run (every cell ran, every figure is on its page) is checked by ``check_book.py``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from format_notebooks import METADATA
from nbformat import NotebookNode

BOOK = Path(__file__).parents[1] / "book"
LINES, DEFINITION_LINES = 25, 35
TAGS = {"hide-input", "hide-output", "hide-cell", "remove-output", "raises-exception", "solution"}
NOT_DRAWING = {"close", "smooth"}
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # where the import is named otherwise
MARKUP = {
    r"^\s*`{3,}\s*\{": "a backtick directive shows as code on Colab: use a colon fence",
    r"\{glue": "{glue} shows nothing on Colab",
    r"<(?!https?://|/?(details|summary)\b)[A-Za-z/!][^>\n]*>": "raw HTML",
    r"<<|>>": "a placeholder in angle brackets",
    r"\\(newcommand|renewcommand|def|DeclareMathOperator)\b": "a LaTeX macro fails on GitHub",
    r"!\[": "an image in the text: draw it in a cell, with alternative text",
}


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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


def is_definition(tree: ast.Module) -> bool:
    """Whether a cell does nothing but define functions and classes."""
    return all(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body)


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the modules that are imported anywhere in a piece of code."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def undeclared(names: set[str], declared: set[str]) -> set[str]:
    """Imports that no declared dependency brings."""
    known = set(sys.stdlib_module_names) | {"metalearn_tut", "__future__"}
    return {n for n in names - known if DISTRIBUTIONS.get(n, n).replace("_", "-") not in declared}


def code(notebook: NotebookNode, declared: set[str]) -> Iterator[str]:
    """Short cells of plain Python; imports on top, and only of what is declared."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            yield f"code cell {number} is not plain Python: {error.msg}"
            continue
        lines = cell.source.count("\n") + 1
        if lines > (DEFINITION_LINES if is_definition(tree) else LINES):
            yield f"code cell {number} has {lines} lines"
        if number > 2 and any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body):
            yield f"code cell {number} imports: imports stand in the first two code cells"
        for name in sorted(undeclared(imported(tree), declared)):
            yield f"code cell {number} imports {name}, which no dependency declares"
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                yield f"code cell {number} uses global"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.chdir", "time.sleep"):
                yield f"code cell {number} calls {ast.unparse(node.func)}"


def tags(notebook: NotebookNode) -> Iterator[str]:
    """Only tags that hide or fold; none that keeps a cell from being run or compared."""
    for cell in notebook.cells:
        for tag in sorted(set(cell.metadata.get("tags", [])) - TAGS):
            yield f"tag {tag!r} is not one of {', '.join(sorted(TAGS))}"
        if "NBVAL_" in cell.source:
            yield "an NBVAL_ comment keeps a cell from being checked"


def without_code(text: str) -> str:
    """Markdown without fenced and inline code and without formulas, directives kept."""
    text = re.sub(r"^(`{3,})(?!\s*\{).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", _macros_only, text, flags=re.DOTALL)
    return re.sub(r"(?<!`)(`{1,2})(?!`).+?(?<!`)\1(?!`)", "", text)


def _macros_only(formula: re.Match) -> str:
    return " ".join(re.findall(r"\\[A-Za-z]+", formula[0]))


def markup(notebook: NotebookNode) -> Iterator[str]:
    """Only markup that a reader can also read on Colab and GitHub."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = without_code(cell.source)
            for pattern, why in MARKUP.items():
                if match := re.search(pattern, text, re.MULTILINE):
                    yield f"{match[0].strip()!r}: {why}"


def draws(source: str) -> bool:
    """Whether a cell calls something of ``plots`` or ``plt`` that makes a figure."""
    try:
        todo: list[ast.AST] = list(ast.parse(source).body)
    except SyntaxError:  # code() says so
        return False
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner in ("plots", "plt") and node.func.attr not in NOT_DRAWING:
                return True
        todo += ast.iter_child_nodes(node)
    return False


def figures(notebook: NotebookNode) -> Iterator[str]:
    """Caption, name and alternative text for every cell that draws."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        mystnb = cell.metadata.get("mystnb", {})
        figure, alt = mystnb.get("figure", {}), mystnb.get("image", {}).get("alt", "")
        if not (figure or alt or draws(cell.source)):
            continue
        if not figure.get("caption") or not figure.get("name", "").startswith("fig-"):
            yield f"code cell {number} draws: it needs a caption and a name that starts with fig-"
        if len(alt) < 30 or alt == figure.get("caption"):
            yield f"code cell {number} draws: its alternative text must say what can be seen"


def figure_names(notebook: NotebookNode) -> list[str]:
    """The names of a notebook's figures."""
    metadata = [cell.metadata.get("mystnb", {}) for cell in code_cells(notebook)]
    return [entry["figure"]["name"] for entry in metadata if "name" in entry.get("figure", {})]


def breaches(notebook: NotebookNode, setup: str, declared: set[str]) -> list[str]:
    """Everything that breaks the contract in one notebook."""
    rules = (kept_form, tags, markup, figures)
    found = [*first_cell(notebook, setup), *code(notebook, declared)]
    return found + [sentence for rule in rules for sentence in rule(notebook)]


def links(text: str) -> list[str]:
    """Relative targets of Markdown links, without anchors."""
    targets = re.findall(r"\]\(\s*<?([^)>\s]+)", without_code(text))
    return [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]


def citations(text: str) -> set[str]:
    """Keys of all citation roles."""
    keys = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text)
    return {key.strip() for group in keys for key in group.split(",")}


def page_text(path: Path) -> str:
    """The prose of a page, Markdown or notebook."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return path.read_text("utf-8")


def pages(book: Path = BOOK) -> list[Path]:
    """All pages of the book, in the order of their names."""
    found = [*book.glob("*.ipynb"), *book.rglob("*.md")]
    return sorted(path for path in found if not path.relative_to(book).parts[0].startswith("_"))
