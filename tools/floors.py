"""The picture of the package's imports by floor: ``python tools/floors.py``.

A module may import from its own floor and from the floors below it, never from one above.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "metalearn_tut"
FLOORS = (
    ("checks", "files"),
    ("tasks", "models", "scoring"),
    ("bilevel",),
    ("learners",),
    ("rank_losses", "saliency", "block_voting", "distillation", "evaluation", "gating"),
    ("training", "federated", "deployment"),
    ("runs", "pretrained", "nb"),
    ("claims",),
    ("cli", "__main__"),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS, start=1) for module in modules}


def imported_names(source: str, name: str, is_package: bool) -> Iterator[str]:
    """Every absolute dotted name that the module ``name`` imports, also inside functions."""
    here = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def import_edges(root: Path) -> dict[str, set[str]]:
    """Map each public module of the package at ``root`` to the others that it imports."""
    edges: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        parts = parts[:-1] if is_package else parts
        if len(parts) == 1:  # the package's own __init__ gathers public names from every floor
            continue
        names = imported_names(path.read_text("utf-8"), ".".join(parts), is_package)
        inside = {name.split(".")[1] for name in names if name.startswith(PACKAGE + ".")}
        edges.setdefault(parts[1], set()).update(inside - {parts[1]})
    return edges


def climbs(edges: dict[str, set[str]]) -> list[str]:
    """A sentence for every import that climbs, and for every module without a floor."""
    modules = set(edges) | {name for names in edges.values() for name in names}
    found = [f"{m} stands on no floor: add it to FLOORS" for m in sorted(modules - set(FLOOR_OF))]
    for module in sorted(edges):
        for other in sorted(edges[module]):
            if FLOOR_OF.get(module, 0) and FLOOR_OF.get(other, 0) > FLOOR_OF[module]:
                found.append(
                    f"{module} (floor {FLOOR_OF[module]}) imports {other} (floor {FLOOR_OF[other]})"
                )
    return found


def picture(edges: dict[str, set[str]]) -> str:
    """One line a module, the roof first."""
    lines = []
    for floor, modules in reversed(list(enumerate(FLOORS, start=1))):
        for module in modules:
            if module in edges:
                below = ", ".join(sorted(edges[module])) or "-"
                lines.append(f"floor {floor}  {module:<13} imports {below}")
    return "\n".join(lines)


if __name__ == "__main__":
    package_edges = import_edges(Path(__file__).parents[1] / PACKAGE)
    print(picture(package_edges))
    if wrong := climbs(package_edges):
        raise SystemExit("\n".join(wrong))
