"""Writes what became of the papers' claims into a page when the book is built.

The words and numbers come from ``tools/claims_page.py``, which needs the files
around the book: it is found above this file, or where the build was started.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

PAGE = "claims"
HERE = "% What became of the claims is written here when the book is built."


def tools() -> Path:
    """The folder of that file."""
    places = [*Path(__file__).resolve().parents, Path.cwd()]
    for place in places:
        if (place / "tools" / "claims_page.py").is_file():
            return place / "tools"
    raise FileNotFoundError(
        f"tools/claims_page.py is not in {Path.cwd()}, nor in any folder above "
        f"{__file__}: build the book in a clone of the repository"
    )


def write(app: Any, name: str, source: list[str]) -> None:
    """Put them where the page has its mark."""
    if name == PAGE:
        if HERE not in source[0]:
            raise ValueError(f"{PAGE}.md needs the line {HERE!r}")
        sys.path.append(str(tools()))
        from claims_page import generated

        source[0] = source[0].replace(HERE, generated())


def always(
    app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """The page, even if only the results have changed since the last build."""
    return [PAGE] if PAGE in env.found_docs else []


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("source-read", write)
    app.connect("env-get-outdated", always)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
