"""What the code cells of a chapter keep to, read from their source; see ``contract.py``."""

from __future__ import annotations

import ast
import re
import symtable
import sys
from collections import defaultdict
from collections.abc import Iterator

from nbformat import NotebookNode

LINES, DEFINITION_LINES = 25, 35
IDEA, CHECKED = "idea", "checked"  # the ids of a chapter's whole idea and of its folded checks
LONG = {IDEA: 40, CHECKED: 65}  # lines
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # where the import is named otherwise
OPTIONAL = {"tasks.omniglot", "tasks.cifar10", "tasks.mini_imagenet"}  # may be missing
NOT_DRAWING = {"close", "smooth"}


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell has this tag."""
    return tag in cell.metadata.get("tags", [])


def parsed(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode, ast.Module]]:
    """Number, cell and syntax tree of every code cell that is plain Python; code() names others."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        try:
            yield number, cell, ast.parse(cell.source)
        except SyntaxError:
            continue


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
        allowed = DEFINITION_LINES if is_definition(tree) else LINES
        if lines > LONG.get(cell.get("id"), allowed):
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


class _AsGenerators(ast.NodeTransformer):
    """Comprehensions as generators of the same names.

    Since Python 3.12 a comprehension has no scope of its own, and its names look like the cell's.
    """

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self.generic_visit(node)
        pair = ast.Tuple([node.key, node.value], ast.Load())
        return ast.GeneratorExp(pair, node.generators)


def made_and_taken(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell makes, and those it takes from other cells (or builtins)."""
    scoped = ast.unparse(_AsGenerators().visit(ast.parse(source)))
    tables, made, taken = [symtable.symtable(scoped, "cell", "exec")], set(), set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            of_cell = table.get_type() == "module" or symbol.is_global()
            if of_cell and (symbol.is_assigned() or symbol.is_imported()):
                made.add(symbol.get_name())
            if symbol.is_referenced() and of_cell:
                taken.add(symbol.get_name())
    return made, taken - made


def order(notebook: NotebookNode) -> Iterator[str]:
    """What a cell takes from another is made in one cell only, so its value knows no order.

    Run at any time, a cell then finds the value that it is meant to find, or none. The first
    cell is the same everywhere and makes nothing that others take.
    """
    makers, takers = defaultdict(list), []
    for number, cell, _ in parsed(notebook):
        made, taken = made_and_taken(cell.source)
        takers.append((number, taken))
        for name in made if number > 1 else ():
            makers[name].append(number)
    for number, taken in takers:
        for name in sorted(taken):
            if len(makers[name]) > 1:
                cells = " and ".join(map(str, makers[name]))
                yield f"code cell {number} takes {name}, which the cells {cells} both make"


def optional_data(notebook: NotebookNode) -> Iterator[str]:
    """Where a data set is read, its absence is caught, and no other cell needs what it gave."""
    cells = [(n, tree, *made_and_taken(cell.source)) for n, cell, tree in parsed(notebook)]
    for number, tree, made, _ in cells:
        calls = {node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        reading = {node for node in calls if ast.unparse(node.func) in OPTIONAL}
        caught = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.Try)
            and any(h.type and "FileNotFoundError" in ast.unparse(h.type) for h in node.handlers)
            for part in node.body
            for inner in ast.walk(part)
        }
        for node in reading - caught:
            what = ast.unparse(node.func)
            yield f"code cell {number} calls {what} and does not catch FileNotFoundError"
        for other, _, _, taken in cells if reading else ():
            for name in sorted(made & taken):
                yield f"code cell {other} takes {name}, which cell {number} makes if data is there"


def exercise_names(notebook: NotebookNode) -> Iterator[str]:
    """What the reader fills in, ``my_...``, is named in its own cell only."""
    cells = defaultdict(set)
    for number, _, tree in parsed(notebook):
        nodes = list(ast.walk(tree))
        found = {node.id for node in nodes if isinstance(node, ast.Name)}
        found |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        for name in found:
            cells[name].add(number)
    for name, numbers in sorted(cells.items()):
        if name.startswith("my_") and len(numbers) > 1:
            yield f"{name} is used in code cells {sorted(numbers)}: it may be unfinished or wrong"


def definitions(notebook: NotebookNode) -> set[str]:
    """The functions and classes of a chapter, without exercises and solutions."""
    return {
        node.name
        for _, cell, tree in parsed(notebook)
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("my_")
        and not tagged(cell, "solution")
    }


def comparisons(notebook: NotebookNode) -> dict[str, str]:
    """What every ``nb.compare`` that must pass in a run names, and a pattern of that name."""
    names = [
        node.args[0]
        for _, cell, tree in parsed(notebook)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nb.compare" and node.args
        if not tagged(cell, "raises-exception")
    ]
    return {ast.unparse(name): _pattern(name) for name in names}


def _pattern(name: ast.expr) -> str:
    """A regular expression that a literal's values match."""
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    return "".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in parts)


def draws(tree: ast.Module) -> bool:
    """Whether a cell calls something of ``plots`` or ``plt`` that makes a figure."""
    todo: list[ast.AST] = list(tree.body)
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
    for number, cell, tree in parsed(notebook):
        mystnb = cell.metadata.get("mystnb", {})
        figure, alt = mystnb.get("figure", {}), mystnb.get("image", {}).get("alt", "")
        if not (figure or alt or draws(tree)):
            continue
        if not figure.get("caption") or not figure.get("name", "").startswith("fig-"):
            yield f"code cell {number} draws: it needs a caption and a name that starts with fig-"
        if len(alt) < 30 or alt == figure.get("caption"):
            yield f"code cell {number} draws: its alternative text must say what can be seen"


def figure_names(notebook: NotebookNode) -> list[str]:
    """The names of a notebook's figures."""
    metadata = [cell.metadata.get("mystnb", {}) for cell in code_cells(notebook)]
    return [entry["figure"]["name"] for entry in metadata if "name" in entry.get("figure", {})]
