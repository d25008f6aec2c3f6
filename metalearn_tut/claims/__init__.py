"""Floor 8: what the papers claim, as experiments: one folder per paper, each a ``Study``.

A study states its claims, with what decides each, before anything is run, and the jobs (trainings
of several seeds) whose results decide them. ``metalearn-tut reproduce`` runs them; each job leaves
a file in ``results/claims/STUDY/jobs/``, and the verdicts follow from these files alone.
"""

from __future__ import annotations

import importlib

from metalearn_tut.claims.study import Claim, Comparison, Job, Study

__all__ = ["STUDIES", "Claim", "Comparison", "Job", "Study", "load"]

# A name is PAPER or PAPER_DATA; the module PAPER/claims.py has a dictionary STUDIES.
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


def load(name: str) -> Study:
    """The study of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    from metalearn_tut.checks import check_choice  # brings PyTorch

    check_choice("study", name, STUDIES)
    paper = name.partition("_")[0]
    return importlib.import_module(f"{__name__}.{paper}.claims").STUDIES[name]
