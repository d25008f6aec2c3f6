"""ABP: can a third of a residual network's blocks be voted out at no loss?

ResNet-20, an arm of a seed with the same start, images and order of images. Every arm trains for
as many epochs in all and on the same schedule: a first training, as many rounds of distillation as
ABP prunes blocks, a final training, each down half a cosine. Of the paper we know the abstract, the
figure of its schedule and its table; what a vote is, the rounds and all settings are our
reconstruction. The short network from scratch is taught, in the rounds' epochs, by the seed's
network with gates as it was after the first training.
"""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.abp import design
from metalearn_tut.claims.pilots import chosen
from metalearn_tut.claims.study import Claim, Comparison, Config, Job, Study

SEEDS, FEW = (0, 1, 2, 3, 4), (0, 1, 3)
PILOT_SEED = 100
EPOCHS = {"emoji": 20, "cifar10": 14}  # of a first training
PILOT_EPOCHS = {"emoji": 7, "cifar10": 5}
BASES: dict[str, Config] = {"emoji": design.EMOJI, "cifar10": design.CIFAR}
NAMES = {"emoji": "abp", "cifar10": "abp_cifar10"}


def jobs_on(family: str, quick: bool) -> list[Job]:
    """All jobs of a family; quick: one seed, little data and an epoch, on the processor."""
    if quick:
        return design.study(tiny(family), 1, SEEDS[:1], (), dict.fromkeys(design.TUNED, 1.0))
    factors = {a: chosen(NAMES[family], a, design.GRID, "1.0") for a in design.TUNED}
    return design.study(BASES[family], EPOCHS[family], SEEDS, FEW, factors)


def tiny(family: str) -> Config:
    """A family for a quick run."""
    small: Config = {"name": family, "train": 200, "validation": 50, "test": 100}
    if family == "emoji":
        small = {"name": family, "classes": 20}
    classes = small.get("classes", 10)
    more = {"data": small, "classes": classes, "batch": 20, "device": "cpu"}
    return {**BASES[family], **more}


def pilots_on(family: str) -> list[Job]:
    """Three factors for each arm, on half of CIFAR-10's training images."""
    base, data = BASES[family], BASES[family]["data"]
    if "train" in data:
        base = {**base, "data": {**data, "train": data["train"] // 2}}
    return design.pilot(base, PILOT_EPOCHS[family], PILOT_SEED)


_OURS = "votes, rounds, temperature and all settings"
CLAIMS = (
    Claim(
        "Without a third of its blocks (ratio 0.4) a network loses no more than a point.",
        "abp",
        "unpruned",
        source="FACT (table: gains of 0.33 and 0.34 points with ResNet-32 and 56)",
        ours=_OURS,
        kind="non-inferior",
        margin=0.01,
    ),
    Claim(
        "Votes choose better than chance.",
        "abp",
        "random",
        source="the voting strategy: FACT (abstract); this test of it: ours",
        ours=_OURS,
    ),
    Claim(
        "The pruned network is better than the same short network trained from scratch as long.",
        "abp",
        "scratch",
        source="why anyone prunes: ours",
        ours=_OURS,
    ),
    Claim(
        "With filter pruning on top, 93 % of the multiply-adds are saved at no loss.",
        "filters",
        "longer",
        source="FACT (abstract), of another network and pruner",
        ours="5 of 9 blocks voted out, then of every convolution the quarter of its filters with "
        "the largest norms kept, at once; a small network (the paper's is deeper); " + _OURS,
        kind="non-inferior",
        margin=0.01,
        most_macs=0.07,
    ),
)
_REPORTED = (
    Comparison("votes - the lowest mean mark", "abp", "mean"),
    Comparison("with distillation - without", "abp", "undistilled"),
    Comparison("one block a round - all at once", "abp", "oneshot"),
    Comparison("the unpruned network after half as many epochs again - before", "longer",
               "unpruned"),
)  # fmt: skip
PAPER = (
    "Z. Si, H. Qi, X. Song, Automatic Block-wise Pruning with Auxiliary Gating Structures for Deep "
    "Convolutional Neural Networks, 2022, arXiv:2205.03602"
)
_PILOT = (
    "For every arm the rates after the first training by a factor of 0.5, 1 and 2, in a third of "
    "the epochs"
)


def _study(family: str, data: str, **given: Any) -> Study:
    return Study(
        NAMES[family],
        PAPER,
        data,
        SEEDS,
        CLAIMS,
        lambda quick: jobs_on(family, quick),
        pilots=lambda: pilots_on(family),
        reported=_REPORTED,
        reported_seeds=FEW,
        **given,
    )


STUDIES: dict[str, Study] = {
    "abp": _study(
        "emoji",
        "300 emoji, a class each, tested on an artist's that were not trained on",
        hours=3.5,
        pilot=_PILOT + ".",
    ),
    "abp_cifar10": _study(
        "cifar10",
        "CIFAR-10 (re-encoded as JPEG), on a GPU",
        hours=0.2,
        pilot=_PILOT + ", on half of the training images. The first 2,000 of the 10,000 test "
        "images had decided the first round. Epochs were what eight minutes of an H200 had room "
        "for (trainings took turns on it, so that their times overlap): the unpruned network still "
        "gained a point by half as many again, so it was not trained until flat. What is only "
        "reported is of the seeds that were done when the time was over.",
    ),
}
