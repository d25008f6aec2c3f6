"""What became of the papers' claims, as MyST Markdown: ``python tools/claims_page.py`` prints it.

``book/_ext/results_in_pages.py`` puts it into the page ``claims`` each time the book is built. All
of it comes from the studies in ``metalearn_tut.claims`` and from the files in ``results/``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from claims_text import commits, differences, docstring, duration, folded, others, pieces, plain

from metalearn_tut import claims
from metalearn_tut.claims import Claim, Study
from metalearn_tut.claims.report import stale

ROOT = Path(__file__).parents[1]
NOT_RUN = "not run yet"
WORDS = {True: "held", False: "did not hold", None: "not decided", NOT_RUN: NOT_RUN}
BOXES = {True: "tip", False: "danger", None: "warning", NOT_RUN: "note"}  # color and sign


class Paper(NamedTuple):
    """A method, the key of its paper (None for what is ours), and the number of its chapter."""

    title: str
    key: str | None
    chapter: str


# By the name of its first study; those that follow it are called NAME_SOMETHING.
PAPERS = {
    "hetrom": Paper("HeTRoM", "si2024hetrom", "03"),
    "anp": Paper("ANP", "gao2021anp", "04"),
    "abp": Paper("ABP", "si2022abp", "05"),
    "tsmd": Paper("TSMD", "wu2023tsmd", "06"),
    "metagater": Paper("MetaGater", "lin2020metagater", "07"),
    "compact": Paper("Side by side", None, "08"),
}


class Found(NamedTuple):
    """A study, and what is on file of it, if anything."""

    study: Study
    result: dict[str, Any] | None

    def kept(self, claim: Claim) -> dict[str, Any]:
        """What is on file of a claim."""
        if self.result is None:
            return {"holds": NOT_RUN, "sentence": "", "values": {}}
        return self.result["values"]["claims"][str(claim.number)]


def generated(root: Path = ROOT) -> dict[str, str]:
    """Everything on the page that may change with a result in ``root/results``, in one part.

    Raises
    ------
    ValueError
        If a result is not of its study as it now stands.
    """
    studies = {name: _found(name, root / "results" / "claims") for name in claims.STUDIES}
    parts = [_summary(studies)]
    for paper in PAPERS:
        of_paper = [found for name, found in studies.items() if _first(name) == paper]
        parts += [_heading(paper), *(_study(found, studies) for found in of_paper)]
        parts += [] if of_paper else ["Not run yet."]
        parts += _paper_scale(paper, root / "results" / "paper_scale")
    return {"claims": "\n\n".join(parts) + "\n"}


def _found(name: str, folder: Path) -> Found:
    study, path = claims.load(name), folder / f"{name}.json"
    if not path.is_file():
        return Found(study, None)
    if (reason := stale(study, path)) is not None:
        raise ValueError(reason)
    return Found(study, json.loads(path.read_text("utf-8")))


def _first(name: str) -> str:
    """The first study of the paper that this one is about."""
    return name.partition("_")[0]


def _summary(studies: dict[str, Found]) -> str:
    """A table: which claims of which study held, each number a link."""
    rows = ["| study | held | did not hold | open |", "| --- | --- | --- | --- |"]
    for name, found in studies.items():
        cells: dict[Any, list[str]] = {kind: [] for kind in WORDS}
        for claim in found.study.claims:
            link = f"[{claim.number}](#{_anchor(found.study, claim)})"
            cells[found.kept(claim)["holds"]].append(link)
        n = len(found.study.claims)
        said = {
            k: f"{len(found)} of {n}: {', '.join(found)}" for k, found in cells.items() if found
        }
        opened = "; ".join(f"{WORDS[k]}, {said[k]}" for k in (None, NOT_RUN) if k in said)
        title = " ".join([PAPERS[_first(name)].title, *name.split("_")[1:]])
        held, failed = said.get(True, ""), said.get(False, "")
        rows.append(f"| [{title}](#study-{name}) | {held} | {failed} | {opened} |")
    rows += [f"| {p.title} | | | {NOT_RUN} |" for name, p in PAPERS.items() if name not in studies]
    return "\n".join(rows)


def _heading(name: str) -> str:
    title, key, number = PAPERS[name]
    chapter = re.search(rf"file: ({number}_\w+)", (ROOT / "book" / "_toc.yml").read_text("utf-8"))
    where = f" Chapter: {{doc}}`{chapter[1]}`." if chapter else ""
    whose = f"The method of {{cite:t}}`{key}`." if key else "Ours: no paper compares them."
    return f"## {title}\n\n{whose}{where}"


def _study(found: Found, studies: dict[str, Found]) -> str:
    """What a study is about, its claims, and how it was run."""
    study, result = found
    home = ROOT / "metalearn_tut" / "claims"
    again = f"```\nmetalearn-tut reproduce {study.name}\n```"
    parts = [
        f"(study-{study.name})=\n### Study `{study.name}`",
        docstring(home / f"{claims.STUDIES[study.name].replace('.', '/')}.py"),
        *("\n".join(_claim(found, claim, studies)) for claim in study.claims),
    ]
    if result is None:
        return "\n\n".join([*parts, f"{len(study.jobs(False))} jobs, not run yet:", again])
    values = result["values"]
    least = "at least " if values["resumed"] else ""
    cost = (
        f"{len(values['jobs'])} jobs took {least}{duration(values['seconds'])} in all. Processor: "
        f"{plain(result['device'])}. Finished on {result['date']}. The same again:"
    )
    return "\n\n".join([*parts, cost, again, "\n".join(_circumstances(study.name, result))])


def _claim(found: Found, claim: Claim, studies: dict[str, Found]) -> Iterator[str]:
    """A box with a claim and its verdict; what is long can be unfolded."""
    kept = found.kept(claim)
    yield f"::::{{admonition}} Claim {claim.number}: {WORDS[kept['holds']]}"
    yield f":class: {BOXES[kept['holds']]}"
    yield f":name: {_anchor(found.study, claim)}\n"
    yield f"**{plain(claim.text)}**\n"
    yield f"Source: {plain(claim.source)}.\n"
    yield from [*pieces(kept["sentence"]), ""]
    yield from _neighbors(found.study, claim, studies)
    yield from folded("Criterion, written before the run", [plain(claim.criterion)])
    if rows := differences(kept["values"]):
        yield from folded("All differences, and those of each seed", rows)
    yield "::::"


def _neighbors(study: Study, claim: Claim, studies: dict[str, Found]) -> Iterator[str]:
    """Where a first study's claim was taken up again, and which one a later one takes up."""
    for name, other in studies.items():
        for one in other.study.claims:
            later = name.startswith(f"{study.name}_") and one.follows == claim.number
            earlier = name == _first(study.name) != study.name and one.number == claim.follows
            if later or earlier:
                link = f"[claim {one.number} of {plain(name)}](#{_anchor(other.study, one)})"
                word = WORDS[other.kept(one)["holds"]]
                yield f"{'Taken up again' if later else 'Takes up'}: {link}, **{word}**.\n"


def _circumstances(name: str, result: dict[str, Any]) -> list[str]:
    values = result["values"]
    seeds = sorted({int(end[1]) for job in values["jobs"] if (end := re.search(r"-(\d+)$", job))})
    lines = [
        f"* Seeds, at the end of the jobs' names: {', '.join(map(str, seeds)) or 'none'}",
        f"* Commit of the verdicts: {commits([result['commit']])}; "
        f"of the jobs: {commits(values['commits'])}",
        "* Versions: " + ", ".join(f"{p} {version}" for p, version in result["versions"].items()),
        "* Interrupted, and only the last part timed: " + (", ".join(values["resumed"]) or "none"),
        f"* Configurations, criteria and all numbers: `results/claims/{name}.json`",
    ]
    return folded("How it was run", lines)


def _paper_scale(name: str, folder: Path) -> list[str]:
    """What came out at the paper's scale, if anything; nothing if there is no script."""
    script = ROOT / "tools" / "paper_scale" / f"{name}.py"
    if not script.is_file():
        return []
    parts = [f"### {PAPERS[name].title} at the paper's scale"]
    parts.append(plain(docstring(script).split("\n")[0].removesuffix(" Not run yet.")))
    for path in (paths := sorted(folder.glob(f"{name}*.json"))):
        result = json.loads(path.read_text("utf-8"))
        values = {key: value for key, value in result["values"].items() if key != "jobs"}
        when = f"`{path.name}`, {result['date']}, {plain(result['device'])}:"
        parts += [when, "\n".join(differences(values)), "\n".join(others(values))]
    parts.append("The command:" if paths else "This was not run. The command:")
    return [*parts, f"```\nMETALEARN_TUT_DATA=folder python tools/paper_scale/{name}.py\n```"]


def _anchor(study: Study, claim: Claim) -> str:
    return f"claim-{study.name}-{claim.number}"


if __name__ == "__main__":
    print(generated()["claims"], end="")
