"""What the papers claim, as experiments: one module per paper, each a :class:`Study`.

A study states its claims with a criterion each, written down before anything is run, and the
jobs (trainings with fixed seeds, mostly) whose results decide them. ``metalearn-tut reproduce``
runs them; what came out, whatever it was, is kept in ``results/claims/``.
"""

from __future__ import annotations

import importlib

from metalearn_tut.claims.study import Claim, Job, Results, Study, Verdict
from metalearn_tut.tasks.sampler import check_choice

__all__ = ["STUDIES", "Claim", "Job", "Results", "Study", "Verdict", "load"]

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


def load(name: str) -> Study:
    """The study of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    check_choice("study", name, STUDIES)
    return importlib.import_module(f"{__name__}.{name}").STUDY
