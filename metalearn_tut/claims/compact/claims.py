"""Side by side: small few-shot learners of all five methods, on the same tasks.

Five characters, one image each; all learners draw 960 training tasks in all (a teacher as many
again), and are asked the same 600 test tasks of scripts that nobody saw. What is deployed for a
task is counted and timed. No paper compares these methods; what is decided here is what we
expected, written down before the run. Learning rates are those of the other studies, but for the
gates: theirs was chosen on 300 validation tasks (one seed, weight 1 of what is open beyond 0.35:
0.916 at 0.67 of the multiply-adds with an outer rate of 0.003, 0.931 at 0.29 with 0.01; weight 2,
nothing free: 0.919 at 0.12). There MAML, with more steps, had 0.865 with 8 filters and 0.946 with
16, prototypes 0.896 with 8 and 0.965 with 32. Nothing else was tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.compact.arms import all_jobs
from metalearn_tut.claims.statistics import PAIRED, interval_over_seeds
from metalearn_tut.claims.study import Claim, Results, Study, Verdict
from metalearn_tut.evaluation.intervals import interval

GATED = ("gated0.5", "gated1", "gated2")
LOSS = 0.02  # of accuracy that compression may cost


def costs(arms: Arms, name: str) -> dict[str, float]:
    """Mean over seeds of what a learner's deployed network costs."""
    each = [values["cost"] for values in arms.values(name)]
    return {what: math.fsum(cost[what] for cost in each) / len(each) for what in each[0]}


def _better(results: Results, a: str, b: str, least: float = 0.0) -> Verdict:
    """Whether ``a`` is better than ``b`` by ``least``, the whole interval."""
    arms = Arms(results)
    gap = arms.minus(a, b)
    values = {name: {"accuracy": arms.mean(name), **costs(arms, name)} for name in (a, b)}
    listed = "; ".join(
        f"{name} {v['accuracy']:.3f} with {v['parameters']:,.0f} parameters and {v['macs']:,.0f} "
        f"multiply-adds"
        for name, v in values.items()
    )
    return Verdict(gap.low > least, f"{a} - {b} {gap}; {listed}.", {**values, "gap": gap.to_dict()})


def wide_and_sparse(results: Results) -> Verdict:
    """Claim 1."""
    return _better(results, "anp75", "maml16")


def student(results: Results) -> Verdict:
    """Claim 2."""
    return _better(results, "tsmd", "maml8")


def short(results: Results) -> Verdict:
    """Claim 3."""
    found = _better(results, "abp", "residual", -LOSS)
    ratio = found.values["abp"]["macs"] / found.values["residual"]["macs"]
    return Verdict(bool(found.holds and ratio <= 0.75), found.sentence, found.values)


def gates(results: Results) -> Verdict:
    """Claim 4."""
    arms = Arms(results)
    limit = 1.1 * costs(arms, "maml16")["macs"]
    points = {name: (costs(arms, name)["macs"], arms.minus(name, "maml16")) for name in GATED}
    holds = any(macs <= limit and gap.low > 0 for macs, gap in points.values())
    parts = [f"{n} {arms.mean(n):.3f} at {macs:,.0f}, {gap}" for n, (macs, gap) in points.items()]
    base = f"maml16 {arms.mean('maml16'):.3f} at {costs(arms, 'maml16')['macs']:,.0f} multiply-adds"
    values = {n: {"macs": macs, "gap": gap.to_dict()} for n, (macs, gap) in points.items()}
    return Verdict(holds, f"{base}; {'; '.join(parts)}.", values)


def taught_and_pruned(results: Results) -> Verdict:
    """Claim 5."""
    return _better(results, "tsmd-anp50", "tsmd", -LOSS)


def robust_and_pruned(results: Results) -> Verdict:
    """Claim 6."""
    arms, found = Arms(results), _better(results, "noisy-hetrom-anp75", "noisy-mean-anp75")
    for name in ("noisy-hetrom", "noisy-mean"):
        gap = arms.minus(f"{name}-anp75", name)
        found.values[f"{name}: pruned - whole"] = gap.to_dict()
    return found


def no_inner_loop(results: Results) -> Verdict:
    """Claim 7."""
    found, times = _better(results, "proto32", "maml32", -LOSS), results["times"]
    ratio = times["proto32"]["adapt"] / times["maml32"]["adapt"]
    sentence = f"adapting takes {ratio:.2f} of the time; {found.sentence}"
    values = {**found.values, "time to adapt": ratio}
    return Verdict(bool(found.holds and ratio <= 0.25), sentence, values)


def seconds(results: Results) -> Verdict:
    """Claim 8."""
    found, times = _better(results, "filters", "maml32", -2 * LOSS), results["times"]
    ratio = {n: times[n]["latency"] / times["maml32"]["latency"] for n in ("filters", "anp75")}
    sentence = (
        f"an image takes {ratio['filters']:.2f} of the time with half of the filters, "
        f"{ratio['anp75']:.2f} with three fourths of the weights masked; {found.sentence}"
    )
    holds = found.holds and ratio["filters"] <= 0.8 and ratio["anp75"] > 0.9
    return Verdict(bool(holds), sentence, {**found.values, "latency": ratio})


def rows(results: Results) -> dict[str, dict[str, float]]:
    """The table of all learners.

    Returns
    -------
    dict
        By name: ``accuracy``, and the half-widths of its 95 % intervals, ``over_tasks`` (each
        task's accuracy being its mean over seeds) and, with several seeds, ``over_seeds``;
        ``parameters``, ``macs`` and ``bytes`` of the deployed network, means over seeds; seconds
        ``adapt`` and ``latency``.
    """
    arms, times = Arms(results), results["times"]
    found = {}
    for name, measured in times.items():
        accuracy = arms.accuracy(name)
        mean, over_tasks = interval(accuracy.mean(0))
        found[name] = {"accuracy": mean, "over_tasks": over_tasks}
        if len(accuracy) > 1:
            found[name]["over_seeds"] = interval_over_seeds(accuracy.mean(1).tolist())[1]
        found[name] |= costs(arms, name) | measured
    return found


def rows_of(values: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """:func:`rows` of what is on file."""
    return rows(Results(values["jobs"]))


_OURS = "our expectation; no paper compares these"
_WHOLE = f", by the whole of {PAIRED.strip()}"

CLAIMS = (
    Claim(
        1,
        "Prune a wide learner by ANP rather than train a narrow one of as many weights.",
        _OURS,
        "Conv4-32 with 75 % of its weights pruned by ANP is more accurate than Conv4-16 trained "
        f"outright{_WHOLE}.",
        wide_and_sparse,
    ),
    Claim(
        2,
        "Let a teacher guide a small student in every task.",
        _OURS,
        f"Conv4-8 by TSMD with a Conv4-32 is more accurate than by MAML{_WHOLE}.",
        student,
    ),
    Claim(
        3,
        "A residual learner can do without blocks that its tasks vote out.",
        _OURS,
        "Without two of its three blocks that may go, the learner has at most 0.75 of the "
        f"multiply-adds and is at most 0.02 less accurate than the whole one{_WHOLE}.",
        short,
    ),
    Claim(
        4,
        "Gates that choose for each image buy more than a narrow network of as many multiply-adds.",
        _OURS,
        "One of the three gated Conv4-32 has at most 1.1 times the multiply-adds of Conv4-16 and "
        f"is more accurate{_WHOLE}.",
        gates,
    ),
    Claim(
        5,
        "The methods add up: a taught student can be pruned.",
        _OURS,
        "With half of its weights pruned by ANP the TSMD student is at most 0.02 less accurate "
        f"than one that is not pruned{_WHOLE}.",
        taught_and_pruned,
    ),
    Claim(
        6,
        "The methods add up: what rank losses save from noisy tasks, pruning leaves.",
        _OURS,
        "With random labels in 30 % of the training tasks' support sets, Conv4-32 with 75 % pruned "
        "and trained by HeTRoM before and after (ranks 6 to 16 of 16) is more accurate than by the "
        f"mean{_WHOLE}.",
        robust_and_pruned,
    ),
    Claim(
        7,
        "Prototypes adapt faster than an inner loop and are as accurate.",
        _OURS,
        "A prototypical Conv4-32 adapts in at most 0.25 of the time of MAML's and is at most 0.02 "
        f"less accurate{_WHOLE}.",
        no_inner_loop,
    ),
    Claim(
        8,
        "To save seconds remove filters: masks save none.",
        _OURS,
        "Conv4-32 with half of its filters removed takes at most 0.8 of the time for an image, "
        "with 75 % of the weights masked more than 0.9, and is with half of the filters at most "
        f"0.04 less accurate than whole{_WHOLE}.",
        seconds,
    ),
)

STUDY = Study(
    "compact",
    "The five methods of this book side by side: MAML, prototypical networks, HeTRoM, ANP, ABP, "
    "TSMD, MetaGater and two combinations",
    CLAIMS,
    all_jobs,
)
