"""The table of the page "Teach it five things", which ``book/_ext/results_in_pages.py`` writes."""

from __future__ import annotations

from typing import Any

from benchmarks_text import table
from teach_it.learners import shown


def generated() -> dict[str, str]:
    """The parts of the page that come from what was measured."""
    rows = []
    for of in shown():
        right = f"{100 * of['right']:.1f} ± {100 * of['half_width']:.1f}\u00a0%"
        size = f"{of['size']}\u00a0×\u00a0{of['size']}"
        rows.append([of["title"], f"`{of['name']}`", size, of["does"], kilobytes(of), right])
    head = ["learner", "in the package", "pixels", "learns by", "file", "right"]
    return {"learners": table(head, rows) + "\n\n" + told()}


def kilobytes(of: dict[str, Any]) -> str:
    """The size of the file that learns."""
    return f"{of['bytes'] / 1000:.0f}\u00a0kB"


def told() -> str:
    """What the last column is."""
    (tasks,) = {of["tasks"] for of in shown()}
    return (
        f"The last column is the accuracy over {tasks} tasks of test classes, five ways and one "
        "shot, with its 95\u00a0% interval. Chance is 20\u00a0%."
    )
