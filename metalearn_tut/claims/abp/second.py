"""ABP again, where filters are pruned on top: the first study's recipe destroyed the networks.

There, soft filter pruning ran for 10 epochs at a rate of 0.03, and 5 epochs followed: the best
networks had 17 % of the test images right. A norm behind a filter that was set to zero multiplies
its gradient by up to 316, so at such a rate zeroed filters come back larger than those that had
stayed, which then go in their turn. On validation images (the first seed's shortened network, half
of the filters) 10 epochs at 0.001 and 20 more at 0.05 gave 0.960; setting filters to zero once,
and 30 epochs at 0.05, gave 0.992. Both are done here, at equal epochs.

The networks to start from are those of the study ``abp``, which is to be run first.
"""

from __future__ import annotations

from metalearn_tut.claims.abp.arms import CHARACTERS, KEPT, SEEDS, fewer, filter_jobs
from metalearn_tut.claims.abp.claims import stacked
from metalearn_tut.claims.study import Claim, Job, Study

SOFT = {"filters": {"epochs": 10, "lr": 0.001}, "narrow": {"epochs": 20, "lr": 0.05}}
ONCE = {"filters": {"epochs": 0, "lr": 0.001}, "narrow": {"epochs": 30, "lr": 0.05}}
_ONE = {"abp": (0.5,), "alone": (0.3,)}


def all_jobs(quick: bool) -> list[Job]:
    """Narrowed networks, softly and at once; quick: one of each, few epochs and one seed."""
    setup, seeds = (fewer(CHARACTERS), SEEDS[:1]) if quick else (CHARACTERS, SEEDS)
    made = []
    for seed in seeds:
        for title, kept, recipes in (("soft", KEPT, SOFT), ("once", _ONE, ONCE)):
            found = {n: {**how, "epochs": how["epochs"] // 5} for n, how in recipes.items()}
            how = found if quick else recipes
            made += filter_jobs(setup, seed, _ONE if quick else kept, title, **how)
    return made


_SHARED = (
    "The paired interval over the 800 test images (each image's difference being its mean over 3 "
    "seeds; 95 %) of (5 of 9 blocks gone, half of the filters kept) - (no block gone, 30 % of the "
    "filters kept) lies above 0, the former with no more multiply-adds. Both start from networks "
    "of the study abp with equal epochs. "
)
CLAIMS = (
    Claim(
        1,
        "A network shortened by ABP is a better start for soft filter pruning than the whole one.",
        "abstract: FACT; our settings: RECONSTRUCTION",
        _SHARED + "Soft filter pruning for 10 epochs at a rate of 0.001, then 20 epochs at 0.05. "
        "The whole curve, past 93 % saved, is reported.",
        lambda results: stacked(results, "soft"),
        follows=5,
    ),
    Claim(
        2,
        "And for a pruner that removes the smallest filters at once.",
        "ours",
        _SHARED + "The smallest filters of every convolution go, then 30 epochs at 0.05.",
        lambda results: stacked(results, "once"),
        follows=5,
    ),
)

STUDY = Study(
    "abp_second",
    "Z. Si, H. Qi, X. Song, Automatic Block-wise Pruning with Auxiliary Gating Structures for Deep "
    "Convolutional Neural Networks, 2022, arXiv:2205.03602; filters on top of blocks, a second "
    "round (run abp first)",
    CLAIMS,
    all_jobs,
)
