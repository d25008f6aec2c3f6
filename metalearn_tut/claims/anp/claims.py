"""ANP: can a meta-trained network lose 85 % of its weights and learn new tasks as before?

The learner is MAML with second-order meta-gradients, two inner steps with learned rates, a learned
head, and batch norms with the support set's statistics. What we know of the paper and how is said
with each claim by the tags FACT (read in the paper's abstract or in the authors' public code) and
RECONSTRUCTION (our reading of it).
"""

from __future__ import annotations

import math
from typing import Any

from metalearn_tut.claims.anp.arms import MODELS, OTHERS, SCORES, SHARES, all_jobs
from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.statistics import PAIRED
from metalearn_tut.claims.study import Claim, Results, Study, Verdict

_NAMES = {"conv64": "Conv4-64", "conv32": "Conv4-32", "resnet": "ResNet-12 (8 to 64)"}


def parity(results: Results) -> Verdict:
    """Claim 1."""
    arms, parts = Arms(results), []
    values: dict[str, Any] = {}
    for network in [n for n in MODELS if arms.present([f"{n}-dense"])]:
        ways = arms.present([f"{network}-anp", f"{network}-uniform"])
        best, chosen = arms.best(ways, "validation 0.85")
        gaps = {way: arms.minus(way, f"{network}-dense", "0.85") for way in ways}
        accuracy = {arm: arms.mean(arm, "0.85") for arm in (*ways, f"{network}-dense")}
        values[network] = {"validation": chosen, "best": best, "accuracy": accuracy}
        values[network] |= {f"{way} - dense": gap.to_dict() for way, gap in gaps.items()}
        words = zip(("sparing", "all layers alike"), gaps.values(), strict=False)
        parts.append(f"{_NAMES[network]}: " + ", ".join(f"{word} {gap}" for word, gap in words))
    values["curves"] = {
        arm: _curve(arms, f"conv32-{arm}") for arm in (*SCORES, "uniform", "downdated")
    }
    decided = values.get("conv64", values["conv32"])
    holds = decided[f"{decided['best']} - dense"]["mean"] >= -0.01
    return Verdict(holds, f"85 % removed, ANP - dense. {'; '.join(parts)}.", values)


def _curve(arms: Arms, arm: str) -> dict[str, float]:
    """Mean accuracy after each round, and before the training that follows it."""
    return {f"{when}{s}": arms.mean(arm, f"{when}{s}") for s in SHARES for when in ("", "before ")}


def naive(results: Results) -> Verdict:
    """Claim 2."""
    arms, parts, holds = Arms(results), [], True
    values: dict[str, Any] = {}
    for share in ("0.85", "0.90"):
        for score in ("magnitude", "lobs"):
            name = f"naive-{score}-{share}"
            if not arms.present([name]):
                continue
            gap = arms.minus(name, "conv32-anp", "test", of_b=share)
            learned = [v["ordinary"] for v in arms.values(name)]
            values[name] = {"naive - anp": gap.to_dict(), "accuracy": arms.mean(name)}
            values[name]["ordinary"] = math.fsum(learned) / len(learned)
            holds &= gap.high < -0.01
            parts.append(f"{score}, {float(share):.0%} removed: {arms.mean(name):.3f}, {gap}")
    return Verdict(holds, f"naive - ANP: {'; '.join(parts)}.", values)


def scores(results: Results) -> Verdict:
    """Claim 3."""
    arms, values, parts = Arms(results), {}, []
    for share in SHARES:
        for split in (share, f"before {share}"):
            gaps = {o: arms.minus("conv32-anp", f"conv32-{o}", split) for o in OTHERS}
            values[split] = {other: gap.to_dict() for other, gap in gaps.items()}
            if split == "0.85":
                parts = [f"{other} {gap}" for other, gap in gaps.items()]
                holds = all(gap.low > 0 for gap in gaps.values())
    early = arms.minus("conv32-anp", "conv32-lobs", "before 0.95")
    parts.append(f"at 95 % before training: lobs {early}")
    downdated = arms.minus("conv32-anp", "conv32-downdated", "0.85")
    values["0.85"]["downdated"] = downdated.to_dict()
    parts.append(f"ANP with inverses that follow each removal: {downdated}")
    return Verdict(holds, f"ANP - other, 85 % removed: {'; '.join(parts)}.", values)


def second_learner(results: Results) -> Verdict:
    """Claim 4."""
    arms = Arms(results)
    gap = arms.minus("anil64-anp", "anil64-dense", "0.85")
    values = {"anp - dense": gap.to_dict(), "dense": arms.mean("anil64-dense", "0.85")}
    return Verdict(gap.mean >= -0.01, f"ANIL, Conv4-64, 85 % removed: ANP - dense {gap}.", values)


def costs(results: Results) -> Verdict:
    """Claim 5."""
    arms, parts, holds = Arms(results), [], True
    values: dict[str, Any] = {}
    for network in arms.present([f"{n}-anp" for n in MODELS]):
        dense = arms.values(network.replace("anp", "dense"))[0]["cost 0.85"]
        found = arms.values(network)[0]
        for share in (s for s in SHARES if f"cost {s}" in found):
            ratios = {what: n / dense[what] for what, n in found[f"cost {share}"].items()}
            values[f"{network} {share}"] = {**found[f"cost {share}"], "ratios": ratios}
            kept = 1 - float(share)
            holds &= ratios["macs"] <= kept + 0.1 and ratios["bytes"] <= kept + 0.1
            if share == "0.85":
                parts.append(
                    f"{network.split('-')[0]}: {ratios['bytes']:.2f} of the bytes, "
                    f"{ratios['macs']:.2f} of the MACs"
                )
    for keep, found in results["filters"].items():
        values[f"filters {keep}"] = found
        parts.append(
            f"{float(keep):.0%} of the filters: {found['latency']:.2f} of the latency, "
            f"{found['macs']:.2f} of the MACs, accuracy {found['accuracy']:.3f}"
        )
    return Verdict(holds, f"85 % removed: {'; '.join(parts)}.", values)


_SHARED = (
    " All arms of a network start from the same dense learner of their seed and have the same "
    "masked training on the same tasks after each round (45, 70, 85, 90 and 95 % of all weights "
    "of convolutions and head removed). The number of inner steps is fixed. The interval over "
    "seeds is given too."
)
CLAIMS = (
    Claim(
        1,
        "85 % of the weights can go without affecting fast adaptation.",
        "abstract: FACT; that one point is 'without affecting': RECONSTRUCTION",
        "5-way 1-shot glyphs, Conv4-64, 85 % removed: mean accuracy of ANP over 600 test tasks and "
        "3 seeds minus that of the dense network with the same further training is at least -0.01. "
        "Decided by the better on 300 validation tasks of two ways to spend the budget: every "
        "layer alike, as in the authors' code, or first convolution(s) and head spared and the "
        "others cut more. Conv4-32 and a ResNet-12 of widths 8 to 64 are reported beside it, with "
        "paired intervals, and the whole curve for Conv4-32." + _SHARED,
        parity,
    ),
    Claim(
        2,
        "Pruning an ordinary network and then meta-training it is clearly worse.",
        "abstract and the authors' baselines: FACT; our form of them: RECONSTRUCTION",
        "Conv4-32, 85 % and 90 % removed, by magnitude and by L-OBS alike: "
        f"{PAIRED}of naive - ANP lies below -0.01. The ordinary network learns five training "
        "classes from all their images, and is pruned in the same rounds with ordinary training "
        "between them; what is left is meta-trained for as many steps as ANP's arm had in all. "
        "First convolution and head are spared in both." + _SHARED,
        naive,
    ),
    Claim(
        3,
        "The score at adapted weights is better than scores that know of no adaptation.",
        "the idea: FACT; that it shows in this comparison: RECONSTRUCTION",
        "Conv4-32, 85 % removed, first convolution and head spared for every score: "
        f"{PAIRED}of ANP - other lies above 0 for magnitude, random, SNIP, Meta-SNIP and L-OBS "
        "(ANP with no inner step) alike. The other shares, and accuracies before training, are "
        "reported." + _SHARED,
        scores,
    ),
    Claim(
        4,
        "It works with other meta-learners.",
        "abstract: FACT; the choice of ANIL: ours",
        "As claim 1 for ANIL, Conv4-64: mean accuracy of ANP (sparing) minus that of dense is at "
        "least -0.01 with 85 % removed." + _SHARED,
        second_learner,
    ),
    Claim(
        5,
        "Size and operations follow the sparsity.",
        "RECONSTRUCTION",
        "At every share removed, bytes of the file and multiply-adds that are left are at most 0.1 "
        "above the share of weights kept, relative to the dense network's. Latency, accuracy and "
        "multiply-adds of a network whose filters are removed for good, by the same score, are "
        "reported.",
        costs,
    ),
)

STUDY = Study(
    "anp",
    "D. Gao, X. He, Z. Zhou, Y. Tong, L. Thiele, Pruning Meta-Trained Networks for On-Device "
    "Adaptation, CIKM 2021, doi:10.1145/3459637.3482378",
    CLAIMS,
    all_jobs,
)
