"""``metalearn-tut reproduce``: how it is spelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalearn_tut.runs.options import option

# The list of metalearn_tut.claims, whose import would cost a tenth of the command's start.
STUDIES = (
    "hetrom",
    "hetrom_mini",
    "anp",
    "anp_mini",
    "abp",
    "abp_cifar10",
    "tsmd",
    "tsmd_mini",
    "metagater",
    "metagater_cifar10",
    "compact",
)


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Test what a paper claims.

    STUDY names the paper, and after _ the data if not emoji. Those of its trainings are run that
    have no file in --results yet, and each claim is judged by the criterion that was written down
    before. An interrupted study goes on with the same command and ends as if it had not been
    interrupted, on another machine too. Code that is not committed is refused, but for --quick,
    with which nothing is written to --results.

    \b
    Examples:
      metalearn-tut reproduce --list
      metalearn-tut reproduce hetrom --quick
      metalearn-tut reproduce hetrom --processes 2
      metalearn-tut reproduce hetrom --only "*-0"
    """

    study: str | None = option(None, positional=True, choices=STUDIES)
    all: bool = option(False, "Every study, one after another.")
    list: bool = option(False, "Say what is claimed and what decides it.")
    quick: bool = option(False, "Two minutes: shows that all runs, decides nothing.")
    pilot: bool = option(False, "The trainings by which settings were chosen.")
    only: str = option("*", "Only jobs whose names match, such as '*-0' for the first seed.")
    processes: int = option(2, "Jobs at a time.", min=1)
    threads: int = option(1, "Threads of each process.", min=1, max=1024)
    out: Path = option(Path("runs/claims"), "Folder for checkpoints.")
    results: Path = option(Path("results/claims"), "Folder of the jobs' files.")
