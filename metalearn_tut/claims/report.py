"""From the jobs of a study to its verdicts, and to the file that keeps them."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_tut.claims.runner import Outcome, run_jobs
from metalearn_tut.claims.study import Claim, Job, Results, Study, Verdict
from metalearn_tut.files.provenance import write_result

_WORD = {True: "holds", False: "does not hold", None: "not decided"}
_QUICK = "a quick run shows the direction: its verdicts decide nothing, and results/ stays as it is"


def reproduce(
    study: Study,
    *,
    quick: bool = False,
    out: str | os.PathLike[str] = "runs/claims",
    results: str | os.PathLike[str] = "results/claims",
    processes: int = 1,
    threads: int = 1,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Run a study's jobs, print its verdicts, and write them down if all jobs ended well.

    Parameters
    ----------
    study : Study
        What to reproduce.
    quick : bool, default False
        The short jobs; the verdicts go to ``out/NAME/quick.json`` only.
    out : path
        Where jobs and checkpoints are kept, in a folder of the study's name.
    results : path
        Where ``NAME.json`` is written.
    processes, threads, environment
        See :func:`metalearn_tut.claims.runner.run_jobs`.

    Returns
    -------
    bool
        False if a job failed.
    """
    jobs, folder = study.jobs(quick), Path(out) / study.name
    outcome = run_jobs(jobs, folder, processes=processes, threads=threads, environment=environment)
    values = {n: record["values"]["values"] for n, record in outcome.records.items()}
    found = Results(values, outcome.failed)
    verdicts = [(claim, claim.verdict(found)) for claim in study.claims]
    print(table(verdicts))
    if outcome.failed:
        for name, why in outcome.failed.items():
            print(f"failed: {name}: {why}")
        print("no result is written: the same command does again what failed")
        return False
    path = folder / "quick.json" if quick else Path(results) / f"{study.name}.json"
    write_result(path, config=_config(study, jobs, quick), values=_values(verdicts, outcome))
    print(f"written to {path}" + (f"; {_QUICK}" if quick else ""))
    return True


def _config(study: Study, jobs: Sequence[Job], quick: bool) -> dict[str, Any]:
    """What a result belongs to: see :func:`stale`."""
    return {
        "command": f"metalearn-tut reproduce {study.name}" + (" --quick" if quick else ""),
        "criteria": {str(claim.number): claim.criterion for claim in study.claims},
        "jobs": {job.name: job.config for job in jobs},
    }


def _values(verdicts: Sequence[tuple[Claim, Verdict]], outcome: Outcome) -> dict[str, Any]:
    records = outcome.records
    about = ("text", "source", "criterion")
    return {
        "claims": {
            str(claim.number): {n: getattr(claim, n) for n in about} | vars(verdict)
            for claim, verdict in verdicts
        },
        "seconds": math.fsum(record["values"]["seconds"] for record in records.values()),
        "resumed": [n for n, record in records.items() if record["values"]["resumed"]],
        "commits": sorted({record["commit"] for record in records.values()}),
        "jobs": {n: record["values"]["values"] for n, record in records.items()},
    }


def criteria(study: Study) -> str:
    """What a study claims, and when each claim holds."""
    lines = [f"{study.name}: {study.paper} ({len(study.jobs(False))} jobs)"]
    for claim in study.claims:
        lines += _wrapped(f"{claim.number:<2} ", f"{claim.text} ({claim.source})")
        lines += _wrapped("   ", f"Holds if: {claim.criterion}")
    return "\n".join(lines)


def table(verdicts: Sequence[tuple[Claim, Verdict]]) -> str:
    """Each claim with its verdict, and the numbers below it.

    Examples
    --------
    >>> claim = Claim(1, "Ice is cold.", "folklore", "below 0 °C", lambda results: None)
    >>> print(table([(claim, Verdict(True, "-4 °C in 3 of 3 glasses."))]))
    1  holds          Ice is cold.
                      -4 °C in 3 of 3 glasses.
    """
    lines = []
    for claim, verdict in verdicts:
        first = f"{claim.number:<2} {_WORD[verdict.holds]:<14} "
        lines += _wrapped(first, claim.text) + _wrapped(" " * len(first), verdict.sentence)
    return "\n".join(lines)


def _wrapped(start: str, text: str) -> list[str]:
    margin = {"initial_indent": start, "subsequent_indent": " " * len(start)}
    whole = {"break_on_hyphens": False, "break_long_words": False}  # paths can be copied
    return textwrap.wrap(text, 100, **whole, **margin)


def stale(study: Study, path: str | os.PathLike[str]) -> str | None:
    """Why a result on file is not of the study as it now stands; None if it is.

    Parameters
    ----------
    study : Study
        As it now stands.
    path : path
        A file that :func:`reproduce` wrote, or what has become of it.
    """
    now = json.loads(json.dumps(_config(study, study.jobs(False), False)))
    parts = {"criteria": "criterion", "jobs": "job"}
    try:
        config = json.loads(Path(path).read_text("utf-8"))["config"]
        was = {part: dict(config[part]) for part in parts}
    except (ValueError, LookupError, TypeError):
        return f"{path} is damaged: run metalearn-tut reproduce {study.name} again"
    for part, kind in parts.items():
        names = was[part].keys() | now[part].keys()
        changed = sorted(n for n in names if was[part].get(n) != now[part].get(n))
        if changed:
            return (
                f"{path} is of another configuration ({kind} {', '.join(changed)}): "
                f"run {now['command']} again"
            )
    return None
