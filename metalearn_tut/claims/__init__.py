"""Floor 8: what the papers claim, as experiments: one folder per paper, each a ``Study``.

A study states its claims with a criterion each, written down before anything is run, and the
jobs (trainings with fixed seeds, mostly) whose results decide them. ``metalearn-tut reproduce``
runs them; what came out, whatever it was, is kept in ``results/claims/``.
"""

from __future__ import annotations

import importlib

from metalearn_tut.claims.study import Claim, Job, Results, Study, Verdict

__all__ = ["STUDIES", "Claim", "Job", "Results", "Study", "Verdict", "load"]

STUDIES = {
    "hetrom": "hetrom.claims",
    "hetrom_second": "hetrom.second",
    "anp": "anp.claims",
    "anp_second": "anp.second",
    "abp": "abp.claims",
    "abp_second": "abp.second",
    "abp_cifar": "abp.cifar",
    "tsmd": "tsmd.claims",
    "metagater": "metagater.claims",
    "metagater_second": "metagater.second",
    "compact": "compact.claims",
}


def load(name: str) -> Study:
    """The study of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    from metalearn_tut.checks import check_choice  # brings PyTorch

    check_choice("study", name, STUDIES)
    return importlib.import_module(f"{__name__}.{STUDIES[name]}").STUDY
