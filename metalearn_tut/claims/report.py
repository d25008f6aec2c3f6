"""From the jobs of a study to its verdicts."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from metalearn_tut.claims.records import records_of
from metalearn_tut.claims.runner import run_jobs
from metalearn_tut.claims.statistics import OPEN, Effect
from metalearn_tut.claims.study import Claim, Comparison, Study

_QUICK = "a quick run shows that everything runs; it decides nothing and is kept in"


@dataclass(frozen=True)
class Finding:
    """What is known of a comparison; of a claim also its verdict.

    Parameters
    ----------
    of : Comparison
    effect : Effect or None
        None as long as a job is missing.
    macs : float, optional
        What the arm's answers cost, of a claim that says so.
    """

    of: Comparison
    effect: Effect | None
    macs: float | None = None

    @property
    def verdict(self) -> str | None:
        """Of a claim: whether it holds."""
        return self.of.verdict(self.effect, self.macs) if isinstance(self.of, Claim) else None

    def sentence(self) -> str:
        """The numbers, in words; where nothing is decided, what could have been seen."""
        if self.effect is None:
            return "jobs are missing"
        seen = f"; could have seen {self.effect.detectable:.3f}" if self.verdict == OPEN else ""
        macs = "" if self.macs is None else f"; {self.macs:.2f} of the multiply-adds"
        return f"{self.effect}{macs}{seen}"


@dataclass(frozen=True)
class Report:
    """What is on file of a study.

    Parameters
    ----------
    study : Study
    records : dict
        Of each job that has ended, by name (see
        :func:`~metalearn_tut.claims.records.record_of`).
    total : int
        Number of its jobs.
    """

    study: Study
    records: dict[str, dict[str, Any]]
    total: int

    @classmethod
    def of(cls, study: Study, results: str | os.PathLike[str], quick: bool = False) -> Report:
        """From the files in the folder ``results``; those of other configurations are none."""
        jobs = study.jobs(quick)
        if quick:  # one seed
            study = replace(study, seeds=study.seeds[:1], reported_seeds=None)
        return cls(study, records_of(jobs, jobs_folder(results, study)), len(jobs))

    @property
    def values(self) -> dict[str, dict[str, Any]]:
        """The values of each job that has ended."""
        return {name: record["values"]["values"] for name, record in self.records.items()}

    @property
    def done(self) -> bool:
        """Whether all jobs have ended."""
        return len(self.records) == self.total

    @property
    def hours(self) -> float:
        """What the jobs on file took."""
        return sum(record["values"]["seconds"] for record in self.records.values()) / 3600

    def claims(self) -> list[Finding]:
        """All claims, in their order."""
        return [self.finding(claim) for claim in self.study.claims]

    def reported(self) -> list[Finding]:
        """What stands beside them."""
        return [self.finding(one) for one in self.study.reported]

    def finding(self, of: Comparison) -> Finding:
        """What is known of one comparison."""
        seeds = self.study.seeds_of(of)
        effect = of.effect(self.values, seeds)
        if effect is None or not isinstance(of, Claim):
            return Finding(of, effect)
        return Finding(of, effect, of.macs(self.values, seeds))


def jobs_folder(results: str | os.PathLike[str], study: Study, kind: str = "jobs") -> Path:
    """Where the records of a study's jobs lie, or those of its ``"pilots"``."""
    return Path(results) / study.name / kind


def reproduce(
    study: Study,
    *,
    quick: bool = False,
    pilot: bool = False,
    only: str = "*",
    out: str | os.PathLike[str] = "runs/claims",
    results: str | os.PathLike[str] = "results/claims",
    processes: int = 1,
    threads: int = 1,
) -> bool:
    """Run those of a study's jobs that have no record yet, and print its verdicts.

    Parameters
    ----------
    study : Study
        What to reproduce.
    quick : bool, default False
        The short jobs; their records go to ``out/quick``, also from code that is not committed.
    pilot : bool, default False
        Run the jobs by which settings were chosen, instead; they go to ``NAME/pilots``.
    only : str, default "*"
        Jobs whose names match this pattern, such as ``"*-0"``, those of the first seed.
    out : path
        Where checkpoints are kept, in a folder of the study's name.
    results : path
        Where the records are, in ``NAME/jobs``.
    processes, threads
        See :func:`metalearn_tut.claims.runner.run_jobs`.

    Returns
    -------
    bool
        False if a job failed.

    Raises
    ------
    ValueError
        If no job matches ``only``.
    NoProvenance
        If a job is to be run by code that is not committed, unless ``quick``.
    """
    if quick:
        out = results = Path(out) / "quick"
    every = study.pilots() if pilot else study.jobs(quick)
    jobs = [job for job in every if fnmatch(job.name, only)]
    if not jobs:
        raise ValueError(f"only must match a job of {study.name}, got {only!r}")
    records = jobs_folder(results, study, "pilots" if pilot else "jobs")
    outcome = run_jobs(
        jobs,
        Path(out) / study.name,
        records=records,
        clean=not quick,
        processes=processes,
        threads=threads,
    )
    if not pilot:
        print(table(Report.of(study, results, quick)))
    for name, why in outcome.failed.items():
        print(f"failed: {name}: {why}")
    if quick:
        print(f"{_QUICK} {records}")
    return not outcome.failed


def criteria(study: Study) -> str:
    """What a study claims, and when each claim holds."""
    jobs = len(study.jobs(False))
    lines = _wrapped(
        "", f"{study.name}: {study.paper} ({study.data}; {jobs} jobs, {study.hours:g} core-hours)"
    )
    for number, claim in enumerate(study.claims, start=1):
        lines += _wrapped(f"{number:<2} ", f"{claim.text} ({claim.source})")
        lines += _wrapped("   ", claim.criterion(study.seeds))
    return "\n".join(lines)


def table(report: Report) -> str:
    """Each claim with its verdict and the numbers below it, then what is reported beside them."""
    lines = []
    for number, found in enumerate(report.claims(), start=1):
        first = f"{number:<2} {found.verdict:<14} "
        lines += _wrapped(first, found.of.text) + _wrapped(" " * len(first), found.sentence())
    for found in report.reported():
        if found.effect is not None:
            lines += _wrapped("   reported       ", f"{found.of.text}: {found.sentence()}")
    done = f"{len(report.records)} of {report.total} jobs done, {report.hours:.1f} core-hours"
    return "\n".join([*lines, done])


def _wrapped(start: str, text: str) -> list[str]:
    margin = {"initial_indent": start, "subsequent_indent": " " * len(start)}
    whole = {"break_on_hyphens": False, "break_long_words": False}  # paths can be copied
    return textwrap.wrap(text, 100, **whole, **margin)
