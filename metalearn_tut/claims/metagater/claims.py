"""MetaGater: do gates that are meta-learned with their backbone fit a new node in a step each?

Nodes have five characters of one script each; new nodes' scripts were never seen. Of the paper
only the abstract was available to us, so no number of ours can be compared with one of its own.
What we know and how is said with each claim by the tags FACT (read in the abstract) and
RECONSTRUCTION (our reading). Rates, the target's weight and the number of rounds were chosen on
nodes of validation scripts with a seed of its own, and the time of gated networks had been looked
at before its criterion was written.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.metagater.arms import KEPT, MAIN, SEEDS, SUPPORTS, TARGETS, all_jobs
from metalearn_tut.claims.study import Claim, Results, Study, Verdict

OTHERS = ("scratch", "random", "magnitude")
SPARSEST = f"gated-{min(TARGETS)}"


def arms_of(results: Results) -> Arms:
    """The arms: right answers of a new node, of all its tasks together."""
    job = results[f"dense-{SEEDS[0]}"]
    return Arms(results, SEEDS, job["answers"], of="nodes")


def macs(arms: Arms, arm: str, support: int) -> float:
    """Active multiply-adds, as a share of the whole ungated network's."""
    found = [values["macs"][str(support)] for values in arms.values(arm)]
    return math.fsum(found) / len(found)


def works(results: Results) -> Verdict:
    """Claim 1."""
    arms, parts, values, holds = arms_of(results), [], {}, True
    for support in SUPPORTS:
        split = str(support)
        gap, share = arms.minus(MAIN, "dense", split), macs(arms, MAIN, support)
        holds &= gap.mean >= -0.03 and share <= 0.5
        names = (MAIN, "dense", "fedavg")
        values[split] = {
            "accuracy": {arm: arms.mean(arm, split) for arm in names},
            "macs": {arm: macs(arms, arm, support) for arm in names},
            "gated - dense": gap.to_dict(),
        }
        parts.append(f"{support} images: {arms.mean(MAIN, split):.3f} at {share:.2f}, {gap}")
    return Verdict(holds, f"Accuracy at MACs, gated - ungated: {'; '.join(parts)}.", values)


def gates_help(results: Results) -> Verdict:
    """Claim 2."""
    arms, parts, values, holds = arms_of(results), [], {}, True
    for support in SUPPORTS:
        split, gaps = str(support), {}
        for other in (*OTHERS, "average"):
            gaps[other] = arms.minus("choices", "choices", f"learned {split}", f"{other} {split}")
        static, cost = _static(arms, support)
        gaps |= {f: arms.minus(MAIN, f, split) for f in (static, "fedavg")}
        holds &= all(gaps[other].low > 0 for other in (*OTHERS, static, "fedavg"))
        values[split] = {other: gap.to_dict() for other, gap in gaps.items()}
        values[split]["macs"] = {MAIN: macs(arms, MAIN, support), static: cost}
        values[split]["macs"]["fedavg"] = macs(arms, "fedavg", support)
        parts.append(f"{support} images: {', '.join(f'{n} {gap}' for n, gap in gaps.items())}")
    return Verdict(holds, f"MetaGater - other, {'; '.join(parts)}.", values)


def _static(arms: Arms, support: int) -> tuple[str, float]:
    """The smallest statically pruned network with no fewer multiply-adds than MetaGater's."""
    costs = {arm: macs(arms, arm, support) for arm in arms.present([*KEPT, "dense"])}
    enough = {arm: cost for arm, cost in costs.items() if cost >= macs(arms, MAIN, support)}
    return min(enough.items(), key=lambda item: item[1], default=("dense", 1.0))


def joint(results: Results) -> Verdict:
    """Claim 3."""
    arms, parts, values = arms_of(results), [], {}
    for support in SUPPORTS:
        gap = arms.minus(MAIN, "separate", str(support))
        costs = {arm: macs(arms, arm, support) for arm in (MAIN, "separate")}
        values[str(support)] = {"joint - separate": gap.to_dict(), "macs": costs}
        parts.append(
            f"{support} images: {gap}, MACs {costs[MAIN]:.2f} against {costs['separate']:.2f}"
        )
        if support == 10:
            holds = gap.low > 0 and costs[MAIN] <= 1.1 * costs["separate"]
    return Verdict(holds, f"Joint - separate, {'; '.join(parts)}.", values)


def curve(results: Results) -> Verdict:
    """Claim 4."""
    arms = arms_of(results)
    names = arms.present([f"gated-{t}" for t in TARGETS])
    points = {
        arm: {"macs": macs(arms, arm, 10), "accuracy": arms.mean(arm, "10")}
        for arm in (*names, *arms.present([*KEPT, "dense"]))
    }
    by_seed = [[v["macs"]["10"] for v in arms.values(arm)] for arm in names]
    falls = all(a > b for seed in zip(*by_seed, strict=True) for a, b in pairwise(seed))
    gap = arms.minus(SPARSEST, "dense", "10")
    small = points[SPARSEST]["macs"] <= 1 / 3
    parts = (f"{arm}: {p['accuracy']:.3f} at {p['macs']:.2f}" for arm, p in points.items())
    values = {"points": points, "sparsest - dense": gap.to_dict(), "by seed": by_seed}
    sentence = f"{', '.join(parts)}; sparsest - dense {gap}."
    return Verdict(falls and small and gap.mean >= -0.05, sentence, values)


def rounds(results: Results) -> Verdict:
    """Claim 5."""
    arms, norms = arms_of(results), {}
    for arm in (MAIN, "one-step"):
        norms[arm] = [_fall(v["gradient"]) for v in arms.values(arm)]
    gaps = {
        "4 steps - 1 step": arms.minus(MAIN, "one-step", "10"),
        "the same, mixed scripts": arms.minus("mixed", "mixed-one-step", "10"),
        "one script - mixed": arms.minus(MAIN, "mixed", "10"),
        "the same, 1 step": arms.minus("one-step", "mixed-one-step", "10"),
    }
    sent = {arm: arms.values(arm)[0]["bytes"] for arm in (MAIN, "one-step", "dense")}
    holds = all(ratio < 1 for found in norms.values() for ratio in found)
    holds &= all(gap.mean >= -0.03 for gap in gaps.values())
    ratios = ", ".join(f"{ratio:.2f}" for ratio in norms[MAIN])
    listed = "; ".join(f"{name} {gap}" for name, gap in gaps.items())
    values = {"falls": norms, "bytes": sent} | {name: gap.to_dict() for name, gap in gaps.items()}
    return Verdict(holds, f"Gradient's norm, late over early: {ratios}; {listed}.", values)


def _fall(gradient: dict[str, list[float]]) -> float:
    """Mean norm of the meta-gradient in the last quarter of rounds, over that in the first."""
    norms = [gradient[number][0] for number in sorted(gradient, key=int)]
    n = max(1, len(norms) // 4)
    return math.fsum(norms[-n:]) / math.fsum(norms[:n])


def latency(results: Results) -> Verdict:
    """Claim 6."""
    found = results["latency"]
    parts = (
        f"{name} open: {v['time']:.2f} of the time ({v['spread'][0]:.2f} to {v['spread'][1]:.2f}) "
        f"at {v['macs']:.2f} of the MACs"
        for name, v in found.items()
    )
    values: dict[str, Any] = {"ratios": found}
    return Verdict(all(v["time"] < 1 for v in found.values()), "; ".join(parts) + ".", values)


_EQUAL = (
    " 192 nodes of five characters of one script, Conv4-16; 30 rounds of 16 nodes with 4 local "
    "steps on 10 support and 20 query images, the same for all arms of a seed, which start from "
    "the same backbone. 48 new nodes of four other scripts, three tasks of 30 query images each. "
    "Intervals are of paired differences over the new nodes (each node's difference being its "
    "mean over 3 seeds; 95 %); those over seeds are given too. MACs are active multiply-adds, "
    "gates included, relative to the whole network without gates."
)
CLAIMS = (
    Claim(
        1,
        "A step of the backbone and a step of the gates on a few images of a new node give a "
        "working gated network.",
        "abstract, but for 'working': FACT; the measures: RECONSTRUCTION",
        "With 5, 10 and 20 support images alike: mean accuracy of MetaGater (at most half of the "
        "filters open, by its target) minus that of Per-FedAvg without gates is at least -0.03, "
        "at no more than 0.5 of the MACs. Before adaptation it is 0.2, as a new node's labels are "
        "arbitrary." + _EQUAL,
        works,
    ),
    Claim(
        2,
        "Meta-learned gates choose better than others would at equal cost.",
        "that gates capture the important filters: FACT; this comparison: RECONSTRUCTION",
        "With 5, 10 and 20 support images alike the paired interval of MetaGater - other lies "
        "above 0. On the same adapted backbone, with as many filters of each layer for each "
        "image: the filters that gates trained from scratch on the support set (rate and steps by "
        "validation nodes) rank highest; random ones; those of largest l1 norm. As networks of "
        "their own: filters removed by l1 norm after half of the rounds of Per-FedAvg, which goes "
        "on for the other half, the smallest network of 6, 8, 10 and 12 filters with no fewer "
        "MACs; and FedAvg with gates and the same target, then a step of each (rates by "
        "validation nodes), whatever its MACs are. Filters that the gates choose on average are "
        "reported." + _EQUAL,
        gates_help,
    ),
    Claim(
        3,
        "Learning backbone and gates jointly beats learning one after the other.",
        "that they are learned jointly: FACT; that it is better: RECONSTRUCTION",
        "10 support images: the paired interval of MetaGater - (Per-FedAvg for half of the "
        "rounds, then gates alone for the other half; same target) lies above 0, at no more than "
        "1.1 times its MACs. 5 and 20 are reported." + _EQUAL,
        joint,
    ),
    Claim(
        4,
        "A price for open filters trades accuracy for multiply-adds.",
        "RECONSTRUCTION",
        "10 support images: with targets of 0.7, 0.5 and 0.35 of the filters MACs fall from each "
        "to the next with every seed, and with the last MACs are at most a third and accuracy is "
        "at most 0.05 below Per-FedAvg's without gates. Statically pruned networks are reported."
        + _EQUAL,
        curve,
    ),
    Claim(
        5,
        "The meta-gradient falls over the rounds; several local steps and skewed nodes cost "
        "little.",
        "that it converges: FACT; the rest: RECONSTRUCTION",
        "The norm of the mean meta-gradient over the same tasks of 24 training nodes is smaller "
        "in the last quarter of the measurements than in the first, with every seed, for 4 local "
        "steps and 30 rounds as for 1 and 120. 10 support images: mean accuracy with 4 steps "
        "minus that with 1, and that with nodes of one script minus that with nodes of mixed "
        "scripts, is at least -0.03, each for both values of the other." + _EQUAL,
        rounds,
    ),
    Claim(
        6,
        "Closed filters save time for one image, not only multiply-adds.",
        "more efficient local computation: FACT; this measure: RECONSTRUCTION",
        "Conv4-16 and Conv4-64 on 28x28 images, Conv4-64 on 84x84 ones, a half or a quarter of "
        "the filters of every layer open: the median of interleaved ratios of time, gated (gates "
        "computed, closed filters left out) over ungated, is below 1 in all cases. One image, one "
        "thread.",
        latency,
    ),
)

STUDY = Study(
    "metagater",
    "S. Lin, L. Yang, Z. He, D. Fan, J. Zhang, MetaGater: Fast Learning of Conditional Channel "
    "Gated Networks via Federated Meta-Learning, 2020, arXiv:2011.12511",
    CLAIMS,
    all_jobs,
)
