"""ABP: can a third or half of a residual network's blocks be voted out at no loss?

ResNet-20 on images of 100 characters. What we know of the paper and how is said with each claim by
the tags FACT (read in the paper's abstract, or in its table of results), RECONSTRUCTION (our
reading of it) and DERIVED (arithmetic). Recipes were chosen so that the network learns (one seed,
validation images); nothing else was tuned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metalearn_tut import block_voting
from metalearn_tut.claims.abp.arms import CHARACTERS, KEPT, PRUNED, SEEDS, all_jobs
from metalearn_tut.claims.abp.jobs import SHAPE
from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.study import Claim, Results, Study, Verdict
from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet

# depth, blocks pruned (None: as the ratio says), ratio, per cent of the multiply-adds saved
TABLE = (
    (32, None, 0.4, 41.1),
    (32, None, 0.6, 61.7),
    (56, 4, 0.2, 15.0),
    (56, None, 0.4, 37.6),
    (56, None, 0.6, 60.2),
)


def arms_of(results: Results) -> Arms:
    """The arms: each test image is right or wrong."""
    return Arms(results, SEEDS, 1, of="images")


def saved(depth: int, n: int) -> float:
    """Per cent of a network's multiply-adds that go with ``n`` blocks, counted layer by layer."""
    whole = CifarResNet(depth)
    short = block_voting.remove_blocks(whole, block_voting.prunable_blocks(whole)[:n])
    return 100 * (1 - cost.macs(short, SHAPE) / cost.macs(whole, SHAPE))


def arithmetic(results: Results) -> Verdict:
    """Claim 1."""
    rows, holds = [], True
    for depth, n, ratio, printed in TABLE:
        n = block_voting.block_budget(CifarResNet(depth), ratio) if n is None else n
        found = saved(depth, n)
        holds &= abs(found - printed) <= 0.05
        rows.append({"depth": depth, "ratio": ratio, "blocks": n, "saved": found, "paper": printed})
    deep = CifarResNet(110)
    budgets = {ratio: block_voting.block_budget(deep, ratio) for ratio in (0.2, 0.4, 0.6)}
    values = {"rows": rows, "110": {str(r): saved(110, n) for r, n in budgets.items()}}
    parts = (f"ResNet-{r['depth']} {r['ratio']}: {r['saved']:.2f} ({r['paper']})" for r in rows)
    return Verdict(holds, "; ".join(parts) + ".", values)


def no_loss(results: Results) -> Verdict:
    """Claim 2."""
    arms, parts, values = arms_of(results), [], {}
    ratios = [r for r in PRUNED if r == "0.4" or arms.present([f"abp-{r}"])]
    gaps = {ratio: arms.minus(f"abp-{ratio}", f"unpruned-{ratio}") for ratio in ratios}
    for ratio, gap in gaps.items():
        found = arms.values(f"abp-{ratio}")
        values[ratio] = {
            "abp - unpruned": gap.to_dict(),
            "accuracy": {arm: arms.mean(arm) for arm in (f"abp-{ratio}", f"unpruned-{ratio}")},
            "before": _before(found),
            "removed": [v["removed"] for v in found],
        }
        parts.append(f"{PRUNED[ratio]} of 9 blocks: {gap}")
    return Verdict(gaps["0.4"].high >= 0, f"ABP - unpruned, {'; '.join(parts)}.", values)


def _before(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean accuracies before the last training: with soft masks, and after they jumped to 1."""
    return {when: math.fsum(v[when] for v in found) / len(found) for when in ("soft", "ungated")}


_OTHERS = ("random", "oneshot", "undistilled", "scratch")


def votes(results: Results) -> Verdict:
    """Claim 3."""
    arms, values = arms_of(results), {}
    gaps = {other: arms.minus("abp-0.4", f"{other}-0.4") for other in (*_OTHERS, "mean")}
    for other, gap in gaps.items():
        found = arms.values(f"{other}-0.4")
        values[other] = {"abp - other": gap.to_dict(), "accuracy": arms.mean(f"{other}-0.4")}
        if other != "scratch":
            removed = [v["removed"] for v in found]
            values[other] |= {"removed": removed, "before": _before(found)}
    values["scratch-0.6"] = arms.minus("abp-0.6", "scratch-0.6").to_dict()
    listed = ", ".join(f"{other} {gap}" for other, gap in gaps.items())
    holds = all(gaps[other].low > 0 for other in _OTHERS)
    return Verdict(holds, f"ABP - other, 3 of 9 blocks: {listed}.", values)


def latency(results: Results) -> Verdict:
    """Claim 4."""
    found, shares, parts = results["latency"], {}, []
    for name, ratios in found.items():
        gone = 1 - ratios["macs"]
        shares[name] = {batch: (1 - r) / gone for batch, r in ratios["latency"].items()}
        kept = ", ".join(f"{r:.2f} at batch {batch}" for batch, r in ratios["latency"].items())
        parts.append(f"ResNet-{name}: {ratios['macs']:.2f} of the MACs, time {kept}")
    holds = all(share >= 0.85 for row in shares.values() for share in row.values())
    return Verdict(holds, "; ".join(parts) + ".", {"ratios": found, "shares": shares})


def stacked(results: Results, title: str = "filters") -> Verdict:
    """Claim 5, of the arms whose names begin with ``title``."""
    arms, parts, curve = arms_of(results), [], {}
    macs = cost.macs(CifarResNet(20, CHARACTERS["classes"]), SHAPE)
    for short in (f"{way}-{kept}" for way, shares in KEPT.items() for kept in shares):
        name = f"{title}-{short}"
        if not arms.present([name]):
            continue
        gone, accuracy = 1 - arms.values(name)[0]["macs"] / macs, arms.mean(name)
        curve[name] = {"saved": gone, "accuracy": accuracy}
        parts.append(f"{short}: {gone:.1%} saved, {accuracy:.3f}")
    gap = arms.minus(f"{title}-abp-0.5", f"{title}-alone-0.3")
    parts.append(f"ABP and half of the filters - 30 % of the filters alone: {gap}")
    return Verdict(gap.low > 0, "; ".join(parts) + ".", {"curve": curve, "gap": gap.to_dict()})


_EQUAL = (
    " Every arm of a seed starts from the same weights and trains for as many epochs in all: 14 "
    "(with gates, if it has them), 3 with distillation for each block that ABP prunes at this "
    "ratio, and the rest without, 37 in all. Intervals are of paired differences over the 800 "
    "test images (each image's difference being its mean over 3 seeds; 95 %); those over seeds "
    "are given too."
)
CLAIMS = (
    Claim(
        1,
        "Only blocks that keep the shape are pruned, and a ratio is a share of all blocks: so the "
        "saved multiply-adds are those of the paper's table.",
        "the table: FACT; what it says of the blocks: DERIVED",
        "Multiply-adds of convolutions and head, counted layer by layer on the shortened networks, "
        "fall by the paper's per cent within 0.05: 41.1 and 61.7 (ResNet-32, ratios 0.4 and 0.6), "
        "15.0, 37.6 and 60.2 (ResNet-56, 0.2, 0.4 and 0.6). With ratio 0.2 the table has one block "
        "fewer than the rule gives, 4 instead of 5, and so have we. ResNet-110 is reported.",
        arithmetic,
    ),
    Claim(
        2,
        "With ratio 0.4 nothing is lost.",
        "the table (a gain of 0.33 with ResNet-32, of 0.34 with ResNet-56): FACT; on our images: "
        "RECONSTRUCTION",
        "ResNet-20, 100 characters, 3 of 9 blocks: the paired interval of ABP - unpruned does not "
        "lie below 0 as a whole. Ratio 0.6, 5 of 9 blocks, is reported." + _EQUAL,
        no_loss,
    ),
    Claim(
        3,
        "Votes, one block at a time, and distillation each help.",
        "the method: FACT; that each part helps in this comparison: RECONSTRUCTION",
        "3 of 9 blocks: the paired interval of ABP - other lies above 0 for random blocks, all "
        "three at once (the three lowest marks of an image are named), no distillation, and the "
        "short network from new weights (taught by the network with gates after stage 1) alike. "
        "Mean marks instead of votes are reported." + _EQUAL,
        votes,
    ),
    Claim(
        4,
        "Blocks that are gone save time, not only multiply-adds.",
        "RECONSTRUCTION",
        "ResNet-20, 32 and 56, ratios 0.4 and 0.6, batches of 1 and 64, one thread: the time saved "
        "is at least 0.85 of the multiply-adds saved, as shares of the unpruned network's.",
        latency,
    ),
    Claim(
        5,
        "A network shortened by ABP is a better start for a pruner of filters than the whole one.",
        "abstract: FACT; with soft filter pruning, and our settings: RECONSTRUCTION",
        "Soft filter pruning for 10 epochs and 5 more without: the paired interval of (5 of 9 "
        "blocks gone, half of the filters kept) - (no block gone, 30 % of the filters kept) lies "
        "above 0, the former with no more multiply-adds. The whole curve, past 93 % saved, is "
        "reported." + _EQUAL,
        stacked,
    ),
)

STUDY = Study(
    "abp",
    "Z. Si, H. Qi, X. Song, Automatic Block-wise Pruning with Auxiliary Gating Structures for Deep "
    "Convolutional Neural Networks, 2022, arXiv:2205.03602",
    CLAIMS,
    all_jobs,
)
