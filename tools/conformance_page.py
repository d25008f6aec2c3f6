"""What the conformance suite found, as Markdown: ``python tools/conformance_page.py`` prints it.

``book/_ext/results_in_pages.py`` puts each part into the page ``conformance`` where the page has
the mark ``% from results: PART``, each time the book is built. All of it comes from
``results/conformance/``, and what is said about a peer from the files in ``conformance_peers/``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import set_repository
from benchmarks_text import NOT_YET, circumstances, table
from claims_text import docstring, folded, plain
from conformance_sides import REPORTS, SIDES, report_of

from metalearn_tut.conformance import CASES, GROUPS, KINDS

ROOT = Path(__file__).parents[1]
PEERS = "conformance_peers"
SOURCE = f"{set_repository.current(ROOT)}/blob/main/{PEERS}"
Values = dict[str, dict[str, Any]]


class Results:
    """The verdicts of every side that was judged, by its name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = {side: root / "results" / "conformance" / f"{side}.json" for side in SIDES}
        self.files = {s: json.loads(f.read_text("utf-8")) for s, f in files.items() if f.is_file()}
        self.sides: dict[str, Values] = {side: file["values"] for side, file in self.files.items()}

    def wrong(self) -> Iterator[tuple[str, str]]:
        """Every side and case of a silent error."""
        for side, values in self.sides.items():
            yield from ((side, case) for case, v in values.items() if v["kind"] == "wrong")


def answer(results: Results) -> str:
    """Two sentences for someone who chooses."""
    if not results.sides:
        return f"This was {NOT_YET}."
    peers = {s: v for s, v in results.sides.items() if not s.startswith("ours")}
    counts = {s: sum(v["kind"] == "wrong" for v in vs.values()) for s, vs in peers.items()}
    ours = sum(side.startswith("ours") for side, _ in results.wrong())
    span = f"{min(counts.values())} to {max(counts.values())}" if counts else NOT_YET
    return (
        f"There are {len(CASES)} small cases with known answers. The libraries that we could "
        f"install are silently wrong in {span} of them, the engines of this package in "
        f"{ours or 'none'}; where they cannot be right, they refuse."
    )


def summary(results: Results) -> str:
    """A row for each side: version, and how many verdicts of each kind."""
    rows = []
    for side, values in results.sides.items():
        counts = [sum(v["kind"] == kind for v in values.values()) for kind in KINDS]
        wrong = KINDS.index("wrong")
        cells = [f"**{c}**" if i == wrong and c else str(c) for i, c in enumerate(counts)]
        rows.append([SIDES[side].title, version_of(results, side), *cells])
    head = ["", "version", "right", "refused clearly", "**silently wrong**", "stops", "not offered"]
    return table(head, rows) if rows else f"This was {NOT_YET}."


def version_of(results: Results, side: str) -> str:
    """Of its package, or of ours."""
    file = results.files[side]
    packages = file["config"]["packages"]
    return next(iter(packages.values()), file["versions"].get("metalearn-tut", ""))


def cell(verdict: dict[str, Any] | None) -> str:
    """One verdict in a narrow column.

    Examples
    --------
    >>> cell({"kind": "right", "error": 1e-9}), cell({"kind": "wrong", "error": 0.0326})
    ('✓', '**3.3\\xa0%**')
    """
    if verdict is None or verdict["kind"] == "not offered":
        return ""
    if verdict["kind"] in ("refused", "crash"):
        return "–" if verdict["kind"] == "refused" else "stops"
    off = verdict["error"]
    if verdict["kind"] == "right":
        return "✓" if off < 1e-6 else f"✓\u00a0{amount(off)}"
    return "**changed**" if off < 1e-6 else f"**{amount(off)}**"


def amount(off: float) -> str:
    """A relative error, in percent if it is more than a tenth of one.

    Examples
    --------
    >>> amount(0.0326), amount(1.08), amount(4.4e-5), amount(math.inf)
    ('3.3\\xa0%', '108\\xa0%', '4e‑05', 'NaN')
    """
    if not math.isfinite(off):
        return "NaN"
    if off < 1e-3:
        return f"{off:.0e}".replace("-", "\u2011")
    return f"{100 * off:.{0 if off >= 0.1 else 1}f}\u00a0%"


def rows_of(results: Results, cases: Sequence[str]) -> str:
    """A table of these cases by the sides that have a column."""
    shown = [side for side in SIDES if side in results.sides and SIDES[side].short]
    head = ["", *(SIDES[side].short for side in shown)]
    rows = [[plain(c), *(cell(results.sides[s].get(c)) for s in shown)] for c in cases]
    return table(head, rows)


def telling(results: Results) -> str:
    """The cases in which somebody is silently wrong."""
    found = {case for _, case in results.wrong()}
    names = [case.name for case in CASES if case.name in found]
    return rows_of(results, names) if names else f"This was {NOT_YET}."


def silent(results: Results) -> str:
    """Each silent error: what, who, by how much, what instead, and the lines that show it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for side, case in results.wrong():
        if not side.startswith("ours"):
            found.setdefault(report_of(side, case) or "", []).append((side, case))
    rows, peers = [], {side for side in results.sides if not side.startswith("ours")}
    for name in (n for n in REPORTS if n in found):
        report, who = REPORTS[name], found[name]
        most = max(results.sides[side][case]["error"] for side, case in who)
        sides = dict.fromkeys(side for side, _ in who)
        titles = "all peers" if peers <= set(sides) else "; ".join(SIDES[s].title for s in sides)
        known = thread(report.upstream) if report.upstream else ""
        said = docstring(results.root / PEERS / "reports" / f"{name}.py").rstrip(".")
        script = f"[{plain(said)}]({SOURCE}/reports/{name}.py)"
        by = amount(most) if most > 1e-6 else "changed"
        rows.append([script, titles, by, report.instead, known])
    head = ["what", "wrong", "by up to", "right instead", "thread"]
    return table(head, rows) if rows else f"This was {NOT_YET}."


def thread(upstream: str) -> str:
    """A link to ``owner/name#number``."""
    repository, _, number = upstream.partition("#")
    name = repository.partition("/")[2]
    return f"[{name}#{number}](https://github.com/{repository}/issues/{number})"


def rest(results: Results) -> str:
    """Everything, folded: all cases, all errors, how each peer was used, with what."""
    boxes = [
        line
        for group, cases in GROUPS.items()
        for line in folded(f"All cases: {group}", [rows_of(results, [c.name for c in cases])])
    ]
    boxes += folded("What is said where one refuses or stops", [loud(results)])
    boxes = ["::::{div} judged", *boxes, "::::", *folded("How each was used", used(results))]
    told = [
        circumstances(side, {**file, "config": {"peers": file["config"]["packages"]}})
        for side, file in results.files.items()
    ]
    return "\n".join([*boxes, *folded("Versions, dates and commits", told)])


def loud(results: Results) -> str:
    """The first line of each error."""
    rows = [
        [SIDES[side].title, plain(case), v["kind"], plain(v["message"])]
        for side, values in results.sides.items()
        for case, v in values.items()
        if v["kind"] in ("refused", "crash")
    ]
    return table(["", "case", "", "what it says"], rows)


def used(results: Results) -> list[str]:
    """The adapters' docstrings, their addresses under short names."""
    names = dict.fromkeys(s.adapter for n, s in SIDES.items() if s.adapter and n in results.sides)
    told = []
    for name in names:
        text = docstring(results.root / PEERS / f"{name}.py")
        text = re.sub(r"<(https://[^>]*?/?([^/>]+))>", r"[\2](\1)", text)
        told += [f"{text}\n\nThe adapter: [`{name}.py`]({SOURCE}/{name}.py)", ""]
    return told


PARTS: dict[str, Callable[[Results], str]] = {
    "answer": answer,
    "summary": summary,
    "telling": telling,
    "silent": silent,
    "rest": rest,
}


def generated(root: Path = ROOT) -> dict[str, str]:
    """Every part of the page, by the name that its mark has."""
    results = Results(root)
    return {name: part(results) for name, part in PARTS.items()}


if __name__ == "__main__":
    print("\n\n".join(generated().values()))
