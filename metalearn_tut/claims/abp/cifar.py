"""ABP on photographs: ResNet-20 on 3,000 images of CIFAR-10, as far as a laptop gets in an hour.

CIFAR-10 is not part of the package: ``metalearn-tut data cifar10 --download`` fetches it, and
``METALEARN_TUT_DATA`` names a folder that has it. Of the claims of the study ``abp``, those that
depend on the images.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.abp import jobs as abp_jobs
from metalearn_tut.claims.abp.arms import SEEDS, arm_jobs, gated_config
from metalearn_tut.claims.abp.claims import arms_of, no_loss
from metalearn_tut.claims.study import Claim, Job, Results, Study, Verdict

SETUP: dict[str, Any] = {
    "data": {"name": "cifar10", "train": 3000, "validation": 1000, "test": 2000},
    "classes": 10,
    "depth": 20,
    "gate": "soft1",
    "batch": 64,
    "augment": {"padding": 4, "flip": True},
    "recipes": {
        "gates": {"epochs": 10, "lr": 0.1},
        "round": {"epochs": 1, "lr": 0.02},
        "final": {"epochs": 6, "lr": 0.03},
    },
}
ARMS = ("abp-0.4", "random-0.4", "unpruned-0.4")


def all_jobs(quick: bool) -> list[Job]:
    """Every arm with every seed; quick: fewer images and epochs, and one seed."""
    seeds, setup = (SEEDS[:1], _quick()) if quick else (SEEDS, SETUP)
    first = [Job(f"gates-{s}", gated_config(setup, s), abp_jobs.train_gated) for s in seeds]
    arms = [job for s in seeds for job in arm_jobs(setup, s)]
    return [*first, *(job for job in arms if job.name.rpartition("-")[0] in ARMS)]


def _quick() -> dict[str, Any]:
    recipes = {n: {**how, "epochs": 1} for n, how in SETUP["recipes"].items()}
    data = {**SETUP["data"], "train": 1000, "test": 500}
    return {**SETUP, "data": data, "recipes": recipes}


def random_blocks(results: Results) -> Verdict:
    """Claim 2."""
    arms = arms_of(results)
    gap = arms.minus("abp-0.4", "random-0.4")
    accuracy = {arm: arms.mean(f"{arm}-0.4") for arm in ("abp", "random")}
    removed = {arm: [v["removed"] for v in arms.values(f"{arm}-0.4")] for arm in accuracy}
    values = {"abp - random": gap.to_dict(), "accuracy": accuracy, "removed": removed}
    return Verdict(gap.low > 0, f"ABP - random, 3 of 9 blocks: {gap}.", values)


_EQUAL = (
    " Every arm of a seed starts from the same weights and trains for as many epochs in all: 10 "
    "(with gates, if it has them), 1 with distillation for each block that ABP prunes, "
    "and the rest without, 21 in all. Intervals are of paired differences over 2,000 test "
    "images (each image's difference being its mean over 3 seeds; 95 %); those over seeds are "
    "given too. The images are those of CIFAR-10 as the data folder has them, re-encoded as JPEG "
    "or not."
)
CLAIMS = (
    Claim(
        1,
        "With ratio 0.4 nothing is lost.",
        "the table (a gain of 0.33 with ResNet-32, of 0.34 with ResNet-56): FACT; at this scale: "
        "RECONSTRUCTION",
        "ResNet-20, 3,000 training images, 3 of 9 blocks: the paired interval of ABP - unpruned "
        "does not lie below 0 as a whole." + _EQUAL,
        no_loss,
        follows=2,
    ),
    Claim(
        2,
        "Votes choose better than chance.",
        "the method: FACT; that it shows in this comparison: RECONSTRUCTION",
        "3 of 9 blocks: the paired interval of ABP - random blocks lies above 0." + _EQUAL,
        random_blocks,
        follows=3,
    ),
)

STUDY = Study(
    "abp_cifar",
    "Z. Si, H. Qi, X. Song, Automatic Block-wise Pruning with Auxiliary Gating Structures for Deep "
    "Convolutional Neural Networks, 2022, arXiv:2205.03602; on CIFAR-10, which has to be there",
    CLAIMS,
    all_jobs,
)
