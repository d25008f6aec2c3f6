"""Assertions about times in the cells of a chapter: they tell about the machine, nobody makes them.

See ``contract.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from contract_code import parsed
from nbformat import NotebookNode

CLOCKS = {
    *("perf_counter", "monotonic", "process_time", "time.time", "timeit", "default_timer"),
    *("cost.latency", "cost.measure"),
}
READINGS = {"latency", "torch_latency"}  # attributes of what was exported or measured


def clock(notebook: NotebookNode) -> Iterator[str]:
    """No assertion depends on how fast the machine is: times are printed."""
    known: set[str] = set()
    for number, _, tree in parsed(notebook):
        assigned = {node.id for node in ast.walk(tree) if _stored(node)}
        here = _readings(tree, known - assigned)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) and _depends(node.test, here):
                yield f"code cell {number} asserts a time: {ast.unparse(node.test)}"
        loops = {n for node in ast.walk(tree) if isinstance(node, ast.For) for n in _names(node)}
        known = (known - assigned) | (here - loops)  # of a loop's own name no other cell knows


def _stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _names(loop: ast.For) -> set[str]:
    return {node.id for node in ast.walk(loop.target) if _stored(node)}


def _readings(tree: ast.Module, known: set[str]) -> set[str]:
    """Names of functions that read a clock, and of values that come from one."""
    names = set(known)
    while more := {n for node in ast.walk(tree) for n in _made(node, names)} - names:
        names |= more
    return names


def _made(node: ast.AST, names: set[str]) -> Iterator[str]:
    """The names that this statement gives a reading to."""
    if isinstance(node, ast.FunctionDef):
        if any(_depends(part, names) for part in node.body):
            yield node.name
    elif isinstance(node, ast.For) and _depends(node.iter, names):
        yield _last(node.target)  # of pairs the first is what was measured
    elif isinstance(node, ast.Assign) and _depends(node.value, names):
        for target in node.targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from map(_last, parts)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "append":
        yield from (_last(node.func.value) for a in node.args if _depends(a, names))


def _last(target: ast.AST) -> str:
    """The name that is given something, if only in a part: ``found[name][0]``."""
    while not isinstance(target, ast.Name):
        target = target.elts[-1] if isinstance(target, ast.Tuple) else target.value
    return target.id


def _depends(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression reads a clock, or one of these names."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and ast.unparse(inner.func) in CLOCKS:
            return True
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load) and inner.id in names:
            return True
        if isinstance(inner, ast.Attribute) and inner.attr in READINGS:
            return True
    return False
