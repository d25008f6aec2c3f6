"""Words and numbers of the page about the claims; ``claims_page.py`` puts them together."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SHOWN = 4  # differences of a claim of the first round
DIFFERENCE = {"mean", "over_tasks", "over_seeds", "seeds", "n_tasks"}


def leaves(values: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every number, word or paired difference in a result's values, with its place.

    Examples
    --------
    >>> list(leaves({"0.3": {"best": "b", "accuracy": [0.5, 0.25]}}))
    [('0.3: best', 'b'), ('0.3: accuracy: 1', 0.5), ('0.3: accuracy: 2', 0.25)]
    """
    if isinstance(values, list):
        values = {str(i): value for i, value in enumerate(values, start=1)}
    if not isinstance(values, dict) or values.keys() >= DIFFERENCE:
        yield ": ".join(path), values
        return
    for key, value in values.items():
        yield from leaves(value, *path, key)


def first_round(path: Path) -> list[str]:
    """The first round in one folded table: what it said, and why it decides nothing."""
    rows = ["| study | claim | it said | difference |", "| - | - | - | - |"]
    studies = json.loads(path.read_text("utf-8"))
    for name, study in studies.items():
        for number, claim in study["claims"].items():
            gaps = [gap for _, gap in leaves(claim["values"]) if isinstance(gap, dict) and gap]
            said = "; ".join(map(both_intervals, gaps[:SHOWN])) + ("; ..." * (len(gaps) > SHOWN))
            word = "held" if claim["holds"] else "did not hold"
            cells = [plain(cell) for cell in (name, f"{number}. {claim['text']}", word, said)]
            rows.append(f"| {' | '.join(cells)} |")
    seconds = sum(study["seconds"] for study in studies.values())
    about = (
        f"{len(studies)} studies, {duration(seconds)}. It decides nothing: its verdicts came from "
        "intervals over test tasks for three fixed trainings of a few hundred steps, so that an "
        "effect of nothing would have passed in about a fifth of the cases; some were decided on "
        "tasks that had been looked at before. Differences are given with both 95 % intervals, "
        "over tasks and over trainings."
    )
    return ["## The first round", "\n".join(folded("What it said", [about, "", *rows]))]


def both_intervals(gap: dict[str, Any]) -> str:
    """A difference of the first round."""
    seeds = "" if gap["over_seeds"] is None else f", ± {gap['over_seeds']:.3f} over trainings"
    return f"{gap['mean']:+.3f} ± {gap['over_tasks']:.3f} over tasks{seeds}"


def plain(text: str) -> str:
    r"""Text that Markdown shows as it is, but for an asterisk that begins a list item.

    No line ends between ± and its number.

    Examples
    --------
    >>> print(plain("* meta_snip is *one*"))
    * meta\_snip is \*one\*
    """
    start, rest = ("* ", text[2:]) if text.startswith("* ") else ("", text)
    return start + re.sub(r"([\\`*_\[\]<>{}$|#~])", r"\\\1", rest).replace("± ", "±\u00a0")


def docstring(path: Path) -> str:
    """The docstring of a Python file, its roles as code; empty if there is no such file."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) if path.is_file() else None
    return re.sub(r":[\w:]+:`~?([^`]+)`", r"`\1`", text or "")


def duration(seconds: float) -> str:
    """In hours and minutes.

    Examples
    --------
    >>> duration(3700), duration(59 * 60)
    ('1 h 2 min', '59 min')
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def commits(names: Sequence[str]) -> str:
    """The first digits of each, as code."""
    return ", ".join(f"`{re.sub('(?<=^[0-9a-f]{8})[0-9a-f]+', '', name)}`" for name in names)


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """A box that can be unfolded."""
    return [f":::{{dropdown}} {title}", *lines, ":::", ""]
