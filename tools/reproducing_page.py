"""What appendix A2 says of the studies' results: ``python tools/reproducing_page.py`` prints it.

``book/_ext/results_in_pages.py`` puts it into the page each time the book is built.
"""

from __future__ import annotations

import json
from pathlib import Path

from claims_page import PAPERS, ROOT, WORDS, paper_of, reports, shown
from claims_text import plain


def generated(root: Path = ROOT) -> dict[str, str]:
    """Both parts of the page."""
    return {"first_round": first_round(root), "decided": decided(root)}


def first_round(root: Path) -> str:
    """How much there was, and what it seemed to say."""
    path = root / "results" / "claims" / "first_round.json"
    studies = json.loads(path.read_text("utf-8"))
    verdicts = [claim["holds"] for study in studies.values() for claim in study["claims"].values()]
    hours = sum(study["seconds"] for study in studies.values()) / 3600
    return (
        f"There was a first round: {len(studies)} studies, {len(verdicts)} claims, {hours:.0f} "
        f"hours of computing. {sum(verdicts)} of its claims were called kept."
    )


def decided(root: Path) -> str:
    """The claims whose trainings have all ended, and how far the studies are."""
    found = reports(root)
    ended = sum(report.done for report in found.values())
    claims = [(name, f) for name, report in found.items() for f in report.claims()]
    known = [(name, f) for name, f in claims if f.effect is not None]
    verdicts = [str(f.verdict) for _, f in known]
    names = ", ".join(f"{verdicts.count(v)} {said.strip('*')}" for v, said in WORDS.items())
    state = (
        f"Of {len(found)} studies {ended} {'has' if ended == 1 else 'have'} ended. Of "
        f"{len(claims)} claims {len(known)} have their numbers: {names}."
    )
    if not known:
        return state
    rows = ["| claim | verdict | points of accuracy |", "| - | - | - |"]
    for name, f in known:
        said = f"{PAPERS[paper_of(name)].title}: {f.of.text}"
        rows.append(f"| {plain(said)} | {WORDS[str(f.verdict)]} | {plain(shown(f))} |")
    return "\n".join([state, "", *rows])


if __name__ == "__main__":
    print(*generated().values(), sep="\n\n")
