"""What became of the papers' claims, as MyST Markdown: ``python tools/claims_page.py`` prints it.

``book/_ext/results_in_pages.py`` puts it into the page ``claims`` each time the book is built. All
of it comes from the studies in ``metalearn_tut.claims`` and from the files in ``results/``.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import NamedTuple

from claims_figure import Row, forest
from claims_text import commits, docstring, first_round, folded, plain

from metalearn_tut import claims
from metalearn_tut.claims import pilots
from metalearn_tut.claims.report import Finding, Report
from metalearn_tut.claims.statistics import FAILS, HOLDS, OPEN, accuracies

ROOT = Path(__file__).parents[1]


class Paper(NamedTuple):
    """A method, the key of its paper (None for what is ours), and the number of its chapter."""

    title: str
    key: str | None
    chapter: str


PAPERS = {
    "hetrom": Paper("HeTRoM", "si2024hetrom", "03"),
    "anp": Paper("ANP", "gao2021anp", "04"),
    "abp": Paper("ABP", "si2022abp", "05"),
    "tsmd": Paper("TSMD", "wu2023tsmd", "06"),
    "metagater": Paper("MetaGater", "lin2020metagater", "07"),
    "compact": Paper("Side by side", None, "08"),
}
RUN_ON_A_GPU = {"abp": "the study on CIFAR-10"}  # studies that stand among the others
WORDS = {HOLDS: "**holds**", FAILS: "**does not hold**", OPEN: "not decided"}


def reports(root: Path = ROOT) -> dict[str, Report]:
    """What is on file of every study, by its name."""
    folder = root / "results" / "claims"
    return {name: Report.of(claims.load(name), folder) for name in claims.STUDIES}


def generated(root: Path = ROOT) -> dict[str, str]:
    """Everything on the page that may change with a result in ``root/results``, in one part."""
    found = reports(root)
    ended = sum(report.done for report in found.values())
    begun = sum(0 < len(report.records) < report.total for report in found.values())
    parts = [f"Of {len(found)} studies {ended} ended and {begun} are running.", headlines(found)]
    for paper in PAPERS:
        of_paper = [report for name, report in found.items() if paper_of(name) == paper]
        parts += [_heading(paper)]
        for report in of_paper:
            parts += _study(report, root)
        parts += [] if of_paper else ["No study has been declared yet."]
        parts += _paper_scale(paper, root)
    parts += first_round(root / "results" / "claims" / "first_round.json")
    return {"claims": "\n\n".join(parts) + "\n"}


def paper_of(name: str) -> str:
    """The paper that a study is about."""
    return name.partition("_")[0]


def headlines(found: dict[str, Report]) -> str:
    """One table of all claims, those first that are decided, then those that have numbers."""
    claims = [(name, finding) for name, report in found.items() for finding in report.claims()]
    claims.sort(key=lambda claim: _place(claim[1], found[claim[0]]))
    rows = ["| claim | data | verdict | difference | what is ours |", "| - | - | - | - | - |"]
    for name, finding in claims:
        text = f"{PAPERS[paper_of(name)].title}: {finding.of.text}"
        cells = [plain(text), plain(found[name].study.data), verdict(finding, found[name])]
        cells += [plain(shown(finding)), plain(finding.of.ours)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _place(finding: Finding, report: Report) -> int:
    """Where a claim stands in the table: decided, not decided, running, not begun."""
    if finding.effect is not None:
        return int(finding.verdict == OPEN)
    return 2 if report.records else 3


def verdict(finding: Finding, report: Report) -> str:
    """In words; of what is not complete, how far it is."""
    if finding.effect is not None:
        return WORDS[str(finding.verdict)]
    done, total = len(report.records), report.total
    return f"running ({done} of {total} jobs)" if done else f"not begun ({total} jobs)"


def shown(finding: Finding) -> str:
    """An effect in points with its interval over trainings."""
    if (effect := finding.effect) is None:
        return ""
    seen = f"; could have seen {100 * effect.detectable:.1f}" if finding.verdict == OPEN else ""
    return f"{100 * effect.mean:+.1f} ± {100 * effect.over_seeds:.1f}{seen}"


def _heading(name: str) -> str:
    title, key, number = PAPERS[name]
    chapter = re.search(rf"file: ({number}_\w+)", (ROOT / "book" / "_toc.yml").read_text("utf-8"))
    where = f" Chapter: {{doc}}`{chapter[1]}`." if chapter else ""
    whose = f"The method of {{cite:t}}`{key}`." if key else "Ours: no paper compares them."
    return f"## {title}\n\n{whose}{where}"


def _study(report: Report, root: Path) -> list[str]:
    """The forest plot, three sentences, and the details to unfold."""
    study, found = report.study, report.claims()
    again = f"```\nmetalearn-tut reproduce {study.name}\n```"
    parts = [f"(study-{study.name})=\n### {study.data[0].upper()}{study.data[1:]}"]
    if any(finding.effect for finding in found):
        parts.append(_figure(report))
    parts.append(sentences(report))
    details = [*_claims(report), *_reported(report), *_pilots(report, root), *_how(report), again]
    return [*parts, "\n".join(folded("Criteria, all numbers, and how it was run", details))]


def _figure(report: Report) -> str:
    rows = [Row(f"{f.of.arm} − {f.of.rival}", f) for f in report.claims()]
    rows += [Row(f"({f.of.arm} − {f.of.rival})", f) for f in report.reported() if f.effect]
    name, alt = report.study.name, "; ".join(f"{r.label}: {shown(r.finding)}" for r in rows)
    caption = (
        "Differences on the same test tasks, with 95 % intervals: thick over trainings, thin over "
        "tasks. Green circles hold, orange squares do not, black diamonds are not decided; "
        "what is in brackets is only reported. Dashes: the margin."
    )
    head = (f"```{{figure}} {forest(rows)}", f":name: fig-claims-{name}", f":alt: {plain(alt)}")
    return "\n".join([*head, "", caption, "```"])


def sentences(report: Report) -> str:
    """What was run, what came out, and what a claim that fails refutes."""
    study = report.study
    words = [str(f.verdict) for f in report.claims() if f.effect is not None]
    own = "each with test tasks that no other run has seen; arms of a training share its start, "
    own += "its tasks and their order."
    if paper_of(study.name) == "abp":  # ordinary classification
        own = "all tested on the same images; arms of a training share its start and their order."
    first = f"{len(study.seeds)} trainings of each arm, {own}"
    if words:
        counts = ", ".join(f"{words.count(w)} {w}" for w in WORDS if w in words)
        second = f"Of {len(study.claims)} claims: {counts}."
    else:
        done = len(report.records)
        second = f"{'Running' if done else 'Not begun'}: {done} of {report.total} jobs are done."
    return f"{first} {second} A claim that does not hold refutes our reconstruction of the method."


def _claims(report: Report) -> list[str]:
    lines = [docstring(_home(report.study.name)), ""]
    for number, finding in enumerate(report.claims(), start=1):
        claim = finding.of
        lines += [
            f"{number}. **{plain(claim.text)}** Source: {plain(claim.source)}. Ours: "
            f"{plain(claim.ours)}.",
            f"   * {plain(claim.criterion(report.study.seeds))}",
            f"   * {verdict(finding, report)}. {plain(finding.sentence())}",
            *([f"   * {_seeds(finding)}"] if finding.effect else []),
        ]
    return [*lines, ""]


def _seeds(finding: Finding) -> str:
    each = ", ".join(f"{seed:+.4f}" for seed in finding.effect.seeds)
    return f"Trainings: {each}"


def _reported(report: Report) -> list[str]:
    rows = ["| beside the claims | difference |", "| - | - |"]
    rows += [
        f"| {plain(f.of.text)} | {plain(f.sentence())} |" for f in report.reported() if f.effect
    ]
    arms: dict[str, list[float]] = {}
    for name, values in report.values.items():
        if "test" in values:
            accuracy = statistics.fmean(accuracies(values["test"]))
            arms.setdefault(name.rpartition("-")[0], []).append(accuracy)
    table = ["| arm | accuracy | trainings |", "| - | - | - |"]
    table += [f"| {plain(a)} | {statistics.fmean(v):.4f} | {len(v)} |" for a, v in arms.items()]
    blocks = [block for block in (rows, table) if len(block) > 2]
    return [line for block in blocks for line in (*block, "")]


def _pilots(report: Report, root: Path) -> list[str]:
    found = pilots.found(report.study.name, root / "results" / "claims")
    listed = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in found.items())
    return [f"Pilot: {plain(report.study.pilot)} {plain(listed)}", ""]


def _how(report: Report) -> list[str]:
    study, records = report.study, report.records.values()
    said = f"Expected cost: {study.hours:g} hours of one core"
    if records:
        devices = sorted({record["device"] for record in records})
        versions = sorted({f"torch {record['versions']['torch']}" for record in records})
        said += (
            f"; the jobs on file took {report.hours:.1f}. {plain(', '.join(devices))}, "
            f"{', '.join(versions)}, commits {commits(sorted({r['commit'] for r in records}))}"
        )
    folder = f"results/claims/{study.name}/jobs"
    return [f"{said}. One file a job, in `{folder}`. To run what is missing:", ""]


def _home(name: str) -> Path:
    return ROOT / "metalearn_tut" / "claims" / paper_of(name) / "claims.py"


def _paper_scale(name: str, root: Path) -> list[str]:
    """The command at the paper's scale, and whether it was run."""
    script = ROOT / "tools" / "paper_scale" / f"{name}.py"
    if not script.is_file():
        return []
    done = len([*(root / "results" / "paper_scale").glob(f"{name}*/jobs/*.json")])
    said = f"{done} jobs are done" if done else "not run"
    command = f"METALEARN_TUT_DATA=folder python tools/paper_scale/{name}.py --device cuda"
    if name in RUN_ON_A_GPU:
        said, command = f"run, see {RUN_ON_A_GPU[name]}", command.removesuffix(" --device cuda")
    return [f"At the paper's scale, on a GPU: {said}.", f"```\n{command}\n```"]


if __name__ == "__main__":
    print(generated()["claims"], end="")
