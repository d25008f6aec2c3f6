"""Words and numbers of the page about the claims; ``claims_page.py`` puts them together."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


def differences(values: Any) -> list[str]:
    """A table of the paired differences among the leaves; nothing if there are none."""
    rows = ["| difference | mean ± 95 % (n) | of each seed |", "| --- | --- | --- |"]
    for name, gap in leaves(values):
        if isinstance(gap, dict) and gap:
            mean = plain(f"{gap['mean']:+.4f} ± {gap['over_tasks']:.4f} ({gap['n_tasks']})")
            seeds = ", ".join(f"{seed:+.4f}" for seed in gap["seeds"])
            if gap["over_seeds"] is not None:
                seeds += f"; ±\u00a0{gap['over_seeds']:.4f}"
            rows.append(f"| {plain(name)} | {mean} | {seeds} |")
    return rows if len(rows) > 2 else []


def others(values: Any) -> list[str]:
    """A list of all other leaves."""
    rest = ((name, value) for name, value in leaves(values) if not isinstance(value, dict))
    return [
        plain(f"* {name}: {value:.4g}" if isinstance(value, float) else f"* {name}: {value}")
        for name, value in rest
    ]


def pieces(sentence: str) -> list[str]:
    r"""A list of the numbers that a verdict's sentence strings together.

    Examples
    --------
    >>> pieces("a: +0.1 ± 0.1 over 9 tasks; ± 0.2 over seeds; b: +0.2 ± 0.1 over 9 tasks.")
    ['* a: +0.1 ±\xa00.1 over 9 tasks; ±\xa00.2 over seeds', '* b: +0.2 ±\xa00.1 over 9 tasks']
    """
    said = sentence.removesuffix(".")
    return [f"* {plain(piece)}" for piece in re.split(r"; (?!±)", said) if piece]


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
