"""The table of the page "Teach it five things", which ``book/_ext/results_in_pages.py`` writes."""

from __future__ import annotations

from benchmarks_text import table
from teach_it.learners import shown


def generated() -> dict[str, str]:
    """The parts of the page that come from what was measured."""
    rows = []
    for of in shown():
        right = f"{100 * of['right']:.1f} ± {100 * of['half_width']:.1f} %"
        size = f"{of['channels']} × {of['size']} × {of['size']}"
        rows.append([of["title"], f"`{of['name']}`", size, of["does"], kilobytes(of), right])
    head = ["learner", "of the package", "pictures", "learns by", "file", "right"]
    return {"learners": table(head, rows) + "\n\n" + told()}


def kilobytes(of: dict) -> str:
    """The size of the file that learns."""
    return f"{of['bytes'] / 1000:.0f} kB"


def told() -> str:
    """What the last column is."""
    (tasks,) = {of["tasks"] for of in shown()}
    return (
        f"The last column is the accuracy over {tasks} tasks of test classes, five ways and one "
        "shot, with its 95 % interval. Chance is 20 %."
    )
