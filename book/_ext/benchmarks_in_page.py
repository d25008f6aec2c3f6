"""Writes what the benchmarks measured into a page when the book is built.

The words and numbers come from ``tools/benchmarks_page.py``, as those about the
claims come from its neighbor.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from claims_in_page import tools

PAGE = "benchmarks"
MARK = re.compile(r"^% benchmarks: (\w+)$", re.MULTILINE)


def write(app: Any, name: str, source: list[str]) -> None:
    """Put every part where the page has its mark."""
    if name == PAGE:
        sys.path.append(str(tools()))
        from benchmarks_page import generated

        parts, marks = generated(), MARK.findall(source[0])
        if sorted(marks) != sorted(parts):
            raise ValueError(
                f"{PAGE}.md needs one line '% benchmarks: PART' for each of "
                f"{', '.join(parts)}; it has {', '.join(marks) or 'none'}"
            )
        source[0] = MARK.sub(lambda mark: parts[mark[1]], source[0])


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
