"""What is claimed of ABP at the paper's scale, and when each claim holds: over trainings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metalearn_tut.claims.abp.trainings import unpacked
from metalearn_tut.claims.statistics import Difference, difference
from metalearn_tut.claims.study import Claim, Results, Undecided, Verdict

IMAGES = 10_000  # of the test
LEAST_SEEDS = 3
MARGIN, FLOOR, SAVED = 0.01, 0.5, 0.93


def right(results: Results, arm: str, seeds: Sequence[int]) -> Tensor:
    """Which test images an arm has right, ``[seeds, images]``."""
    rows = [unpacked(results[f"{arm}-{s}"]["right"], IMAGES) for s in seeds]
    return torch.stack([torch.from_numpy(row) for row in rows]).double()


def seeds_of(results: Results, *arms: str) -> list[int]:
    """The seeds with which all of these arms ended.

    Raises
    ------
    Undecided
        If there are fewer than three.
    """
    found = [
        {int(n.rpartition("-")[2]) for n in results if n.rpartition("-")[0] == a} for a in arms
    ]
    seeds = sorted(set.intersection(*found))
    if len(seeds) < LEAST_SEEDS:
        raise Undecided(f"not decided: {' and '.join(arms)} have {len(seeds)} seeds in common")
    return seeds


def compared(results: Results, a: str, b: str) -> tuple[Difference, dict[str, object]]:
    """Arm ``a`` minus arm ``b`` on the test images, and what is kept of it."""
    seeds = seeds_of(results, a, b)
    rows = {arm: right(results, arm, seeds) for arm in (a, b)}
    gap = difference(rows[a], rows[b], of="images")
    accuracy = {arm: row.mean().item() for arm, row in rows.items()}
    return gap, {f"{a} - {b}": gap.to_dict(), "accuracy": accuracy, "seeds": seeds}


def decided(gap: Difference, margin: float = 0.0) -> bool | None:
    """Whether the interval over seeds lies above ``-margin`` (True), below it (False), or around.

    Examples
    --------
    >>> lower = Difference(-0.002, 0.001, 0.004, [], 10)
    >>> decided(lower, margin=0.01), decided(lower) is None
    (True, True)
    """
    half = gap.over_seeds or 0.0
    if gap.mean - half > -margin:
        return True
    return False if gap.mean + half < -margin else None


def no_loss(results: Results) -> Verdict:
    """Claim 1."""
    gap, values = compared(results, "abp", "unpruned")
    return Verdict(decided(gap, MARGIN), f"ABP - unpruned: {gap}.", values)


def votes(results: Results) -> Verdict:
    """Claim 2."""
    gap, values = compared(results, "abp", "random")
    return Verdict(decided(gap), f"ABP - random blocks: {gap}.", values)


def inherited(results: Results) -> Verdict:
    """Claim 3."""
    gap, values = compared(results, "abp", "scratch")
    return Verdict(decided(gap), f"ABP - short network from scratch: {gap}.", values)


def filters(results: Results) -> Verdict:
    """Claim 4."""
    gap, values = compared(results, "filters", "longer")
    seed = seeds_of(results, "filters", "longer")[0]
    macs = [results[f"{arm}-{seed}"]["macs"] for arm in ("filters", "longer")]
    saved, accuracy = 1 - macs[0] / macs[1], values["accuracy"]["filters"]  # type: ignore[index]
    values["saved"] = saved
    holds = decided(gap, MARGIN) if saved >= SAVED and accuracy >= FLOOR else False
    said = f"{100 * saved:.1f} % saved, accuracy {accuracy:.4f}: {gap}."
    return Verdict(holds, f"ABP and filters - unpruned: {said}", values)


_SHARED = (
    " ResNet-20 on CIFAR-10 (45,000 training images; what the data folder holds is said with the "
    "result), ratio 0.4: 3 of 9 blocks. Every arm of a seed trains for as many epochs in all, on "
    "the same schedule (a first training, 3 rounds of distillation, a final training, each down "
    "half a cosine), its rates after the first training chosen from the same three on validation "
    "images with another seed. Decided by Student's t over the seeds' differences on the 10,000 "
    "test images (95 %), at least three seeds; around the limit it is not decided."
)
_OURS = (
    "; the votes, the rounds and all settings: our reconstruction, so that a failure refutes that"
)
CLAIMS = (
    Claim(
        1,
        "With ratio 0.4 no more than a point is lost against the unpruned network.",
        f"the table (gains of 0.33 and 0.34 points with ResNet-32 and 56): FACT{_OURS}",
        "The interval of ABP - unpruned lies above -0.01." + _SHARED,
        no_loss,
    ),
    Claim(
        2,
        "Votes choose better than chance.",
        f"the voting strategy: FACT; that it shows in this comparison: RECONSTRUCTION{_OURS}",
        "The interval of ABP - random blocks lies above 0, the blocks of a round being drawn and "
        "all else the same." + _SHARED,
        votes,
    ),
    Claim(
        3,
        "The pruned network is better than the same short network trained from scratch as long.",
        f"the use of pruning at all: RECONSTRUCTION{_OURS}",
        "The interval of ABP - (the network of the blocks that it kept, new weights) lies above "
        "0. In the rounds' epochs the latter is taught by the seed's network with gates as it was "
        "after the first training." + _SHARED,
        inherited,
    ),
    Claim(
        4,
        "With filter pruning on top, 93 % of the multiply-adds and more are saved at no loss.",
        f"abstract, of another network and pruner: FACT{_OURS}",
        "5 of 9 blocks go in rounds, and after the final training all but a quarter of the "
        "filters of every convolution, those of smallest norm, at once, then it is trained on. "
        "The interval of this - (the unpruned network trained on for as many epochs) lies above "
        "-0.01, at least 0.93 of the multiply-adds are saved, and accuracy is at least 0.5."
        + _SHARED,
        filters,
    ),
)
