"""Writes what was measured into the pages about it when the book is built.

The words and numbers come from ``tools/``, which needs the files around the
book and is found above this file, or where the build was started.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# A page, and the module of tools/ that generates its parts by their names.
PAGES = {"intro": "front_page"} | {
    name: f"{name}_page"
    for name in (
        *("benchmarks", "claims", "conformance", "emoji"),
        *("install", "teach_it", "using"),
    )
}
PAGES["A2_reproducing"] = "reproducing_page"
MARK = re.compile(r"^% from results: (\w+)$", re.MULTILINE)


def tools() -> Path:
    """The folder of those modules."""
    places = [*Path(__file__).resolve().parents, Path.cwd()]
    for place in places:
        if (place / "tools" / "claims_page.py").is_file():
            return place / "tools"
    raise FileNotFoundError(
        f"tools/claims_page.py is not in {Path.cwd()}, nor in any folder above "
        f"{__file__}: build the book in a clone of the repository"
    )


def write(app: Any, name: str, source: list[str]) -> None:
    """Put every part where the page has its mark."""
    if name not in PAGES:
        return
    sys.path.append(str(tools()))
    parts = import_module(PAGES[name]).generated()
    marks = MARK.findall(source[0])
    if sorted(marks) != sorted(parts):
        raise ValueError(
            f"{name}.md needs one line '% from results: PART' for each of "
            f"{', '.join(parts)}; it has {', '.join(marks) or 'none'}"
        )
    source[0] = MARK.sub(lambda mark: parts[mark[1]], source[0])


def always(
    app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """The pages, even if only the results have changed since the last build."""
    return sorted(PAGES.keys() & env.found_docs)


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("source-read", write)
    app.connect("env-get-outdated", always)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
