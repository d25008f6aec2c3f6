"""The picture of the package: ``python tools/floors.py``, or ``--page`` to write it into the book.

A room (a folder of the package, or a module at its root) may import from its own floor and from
the floors below it, never from one above, and no two rooms of a floor import each other. Files
and folders stay small enough to be read.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "metalearn_tut"
PAGE = ROOT / "book" / "contributing.md"
FLOORS = (
    ("checks", "files", "machine"),
    ("tasks", "models", "scoring"),
    ("bilevel",),
    ("learners",),
    ("rank_losses", "saliency", "block_voting", "distillation", "gating", "evaluation"),
    ("training", "federated", "deployment"),
    ("runs", "pretrained", "nb"),
    ("claims", "conformance"),
    ("cli", "__main__"),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS, start=1) for module in modules}
LINES, FILES, LOOSE = 300, 12, 3  # of a file; of a folder; at the root beside the package's own
OWN = ("__init__.py", "__main__.py")
_BEGIN, _END = "<!-- made by tools/floors.py --page -->\n", "<!-- end -->\n"

Edges = dict[str, set[str]]


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


def import_edges(root: Path) -> Edges:
    """Map each room of the package at ``root`` to the others that it imports."""
    edges: Edges = {}
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


def climbs(edges: Edges) -> list[str]:
    """A sentence for every import that climbs, and for every room without a floor."""
    rooms = set(edges) | {name for names in edges.values() for name in names}
    found = [f"{m} stands on no floor: add it to FLOORS" for m in sorted(rooms - set(FLOOR_OF))]
    for room in sorted(edges):
        for other in sorted(edges[room]):
            if FLOOR_OF.get(room, 0) and FLOOR_OF.get(other, 0) > FLOOR_OF[room]:
                found.append(
                    f"{room} (floor {FLOOR_OF[room]}) imports {other} (floor {FLOOR_OF[other]})"
                )
    return found


def circles(edges: Edges) -> list[str]:
    """A sentence for every two rooms that import each other, directly or through others."""
    reach = {room: set(others) for room, others in edges.items()}
    for _ in edges:  # no way from room to room is longer
        for others in reach.values():
            others |= {far for near in others for far in reach.get(near, ())}
    pairs = ((a, b) for a in sorted(reach) for b in sorted(reach[a]) if a < b)
    return [f"{a} and {b} import each other" for a, b in pairs if a in reach.get(b, ())]


def long_files(root: Path) -> list[str]:
    """A sentence for every file that is too long."""
    counts = {path: len(path.read_text("utf-8").splitlines()) for path in root.rglob("*.py")}
    return [
        f"{path.relative_to(root)} has {count} lines, more than {LINES}"
        for path, count in sorted(counts.items())
        if count > LINES
    ]


def full_folders(root: Path) -> list[str]:
    """A sentence for every folder with too many files, and for a root that is a hallway."""
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    counts = {folder: len([*folder.glob("*.py")]) for folder in folders}
    found = [
        f"{folder.relative_to(root)} has {count} files, more than {FILES}"
        for folder, count in counts.items()
        if count > FILES
    ]
    loose = sorted(path.name for path in root.glob("*.py") if path.name not in OWN)
    if len(loose) > LOOSE:
        found.append(f"{len(loose)} modules at the root, more than {LOOSE}: {', '.join(loose)}")
    return found


def picture(edges: Edges) -> str:
    """One line a room, the roof first."""
    lines = []
    for floor, rooms in reversed(list(enumerate(FLOORS, start=1))):
        for room in rooms:
            if room in edges:
                below = ", ".join(sorted(edges[room])) or "-"
                lines.append(f"floor {floor}  {room:<13} imports {below}")
    return "\n".join(lines)


def purpose(root: Path, room: str) -> str:
    """The first sentence of a room's docstring, without the floor that it stands on."""
    folder = root / room / "__init__.py"
    path = folder if folder.exists() else root / f"{room}.py"
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = re.sub(r"^Floor \d+: ", "", said.split("\n\n")[0].split(".\n")[0])
    plain = re.sub(r":\w+:`([^`]+)`", r"`\1`", first.replace("``", "`")).replace("\n", " ")
    return (plain[:1].lower() + plain[1:]).rstrip(".")


def table(edges: Edges, root: Path) -> str:
    """The picture for the book: a table, the roof first, with a link to each room's page."""
    lines = ["| floor | room | what it is for | stands on |", "| --- | --- | --- | --- |"]
    for floor, rooms in reversed(list(enumerate(FLOORS, start=1))):
        for room in rooms:
            if room in edges and not room.startswith("_"):
                named = f"[{room}](api/{room}.md)"
                below = ", ".join(sorted(edges[room])) or "nothing of ours"
                lines.append(f"| {floor} | {named} | {purpose(root, room)} | {below} |")
    return "\n".join(lines) + "\n"


def drawn(page: str, edges: Edges, root: Path) -> str:
    """The page with the picture as the imports are."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table(edges, root)}\n{_END}{after}"


def main() -> None:
    """Print the picture or write the page; fail for what the house rules forbid."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    root = ROOT / PACKAGE
    edges = import_edges(root)
    if parser.parse_args().page:
        PAGE.write_text(drawn(PAGE.read_text("utf-8"), edges, root), "utf-8")
    else:
        print(picture(edges))
    wrong = [*climbs(edges), *circles(edges), *long_files(root), *full_folders(root)]
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
