"""``metalearn-tut reproduce``: how it is spelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalearn_tut.runs.options import option

STUDIES = (
    "hetrom",
    "hetrom_second",
    "anp",
    "anp_second",
    "abp",
    "abp_second",
    "abp_cifar",
    "tsmd",
    "metagater",
    "metagater_second",
    "compact",
)


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Test what a paper claims.

    STUDY names the paper. Its experiments are run, each claim is judged by the criterion that
    was written down before, and the verdicts are kept with all numbers in --results, whatever
    they are. An interrupted study goes on with the same command and ends as if it had not been
    interrupted. With --quick nothing is written to --results.

    \b
    Examples:
      metalearn-tut reproduce --list
      metalearn-tut reproduce hetrom --quick
      metalearn-tut reproduce hetrom --processes 2
    """

    study: str | None = option(None, positional=True, choices=STUDIES)
    all: bool = option(False, "Every study, one after another.")
    list: bool = option(False, "Say what is claimed and what decides it.")
    quick: bool = option(False, "Minutes: shows the direction, decides nothing.")
    processes: int = option(2, "Jobs at a time.", min=1)
    threads: int = option(1, "Threads of each process.", min=1, max=1024)
    out: Path = option(Path("runs/claims"), "Folder for jobs and checkpoints.")
    results: Path = option(Path("results/claims"), "Folder for the verdicts.")
