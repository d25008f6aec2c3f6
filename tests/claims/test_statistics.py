"""The statistics of claims: against sums by hand, and against SciPy."""

import json
import math
from pathlib import Path

import pytest
import torch
from scipy import stats

from metalearn_tut.claims import statistics as claims
from metalearn_tut.claims.statistics import Effect, paired, student_quantile, verdict

ROOT = Path(__file__).parents[2]

# Student's t


@pytest.mark.parametrize("probability", [0.8, 0.9, 0.95, 0.975, 0.995])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 11, 29, 30, 100])
def test_students_points_are_scipys(degrees, probability):
    found = student_quantile(degrees, probability)
    assert found == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


@pytest.mark.parametrize(("degrees", "probability"), [(0, 0.9), (3, 0.5), (3, 1.0), (3, 97.5)])
def test_a_point_that_there_is_not_is_refused(degrees, probability):
    with pytest.raises(ValueError, match=f"got degrees={degrees}, probability={probability}"):
        student_quantile(degrees, probability)


# Effects


def some_effect(seeds, spread=0.01, shift=0.0):
    g = torch.Generator().manual_seed(seeds)
    means = shift + spread * torch.randn(seeds, generator=g, dtype=torch.float64)
    return Effect(tuple(means.tolist()), 0.001, 600 * seeds)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_the_interval_over_trainings_is_that_of_a_t_test(seeds):
    effect = some_effect(seeds)
    expected = stats.ttest_1samp(effect.seeds, 0.0).confidence_interval(0.95)
    assert (effect.low, effect.high) == pytest.approx(tuple(expected), rel=1e-9)


def test_both_intervals_by_hand():
    g = torch.Generator().manual_seed(0)
    pairs = [torch.rand(2, n, generator=g, dtype=torch.float64).tolist() for n in (50, 60, 70)]
    found = paired(pairs)
    gaps = [[x - y for x, y in zip(a, b, strict=True)] for a, b in pairs]
    means = [sum(gap) / len(gap) for gap in gaps]
    errors = [
        sum((x - m) ** 2 for x in gap) / (len(gap) - 1) / len(gap)
        for gap, m in zip(gaps, means, strict=True)
    ]
    mean = sum(means) / 3
    sd = (sum((m - mean) ** 2 for m in means) / 2) ** 0.5
    assert found.seeds == pytest.approx(means, abs=1e-12) and found.n_tasks == 180
    assert found.over_tasks == pytest.approx(1.96 * math.sqrt(sum(errors)) / 3, abs=1e-12)
    assert found.over_seeds == pytest.approx(4.30265273 * sd / 3**0.5, abs=1e-9)


@pytest.mark.parametrize("pairs", [[], [([0.0] * 3, [0.0] * 4)], [([0.0], [0.0])]])
def test_what_cannot_be_paired_is_refused(pairs):
    with pytest.raises(ValueError, match="paired needs"):
        paired(pairs)


@pytest.mark.parametrize("seeds", [3, 5, 8, 12])
def test_the_detectable_difference_is_seen_four_times_in_five(seeds):
    """Against the power by SciPy's noncentral t, the spread found being the true one."""
    effect = some_effect(seeds)
    shift = effect.detectable / effect.error
    power = stats.nct.sf(student_quantile(seeds - 1), seeds - 1, shift)
    assert power == pytest.approx(0.8, abs=0.04)


def test_one_training_decides_nothing():
    effect = Effect((0.5,), 0.001, 600)
    assert effect.over_seeds == effect.detectable == math.inf
    assert {verdict(effect, kind, 0.01) for kind in claims.KINDS} == {"not decided"}


# Verdicts


@pytest.mark.parametrize(
    ("mean", "kind", "margin", "said"),
    [
        (0.03, "superior", 0, "holds"),
        (0.01, "superior", 0, "not decided"),
        (-0.03, "superior", 0, "does not hold"),
        (0.03, "superior", 0.02, "not decided"),
        (0.011, "non-inferior", 0.01, "holds"),
        (0.0, "non-inferior", 0.01, "not decided"),
        (-0.02, "non-inferior", 0.01, "not decided"),
        (-0.031, "non-inferior", 0.01, "does not hold"),
        (0.0, "equivalent", 0.021, "holds"),
        (0.01, "equivalent", 0.021, "not decided"),
        (0.05, "equivalent", 0.021, "does not hold"),
        (-0.05, "equivalent", 0.021, "does not hold"),
    ],
)
def test_a_verdict_follows_from_the_interval(mean, kind, margin, said):
    half = 0.02  # of the interval, by two seeds this far apart
    far = half / student_quantile(1)
    effect = Effect((mean - far, mean + far), 0.0, 1200)
    assert effect.over_seeds == pytest.approx(half)
    assert verdict(effect, kind, margin) == said


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("shift", [-0.03, -0.01, 0.0, 0.01, 0.03])
def test_verdicts_are_those_of_scipys_one_sided_tests(seeds, shift):
    effect, margin = some_effect(seeds, shift=shift), 0.012

    def p(bound, side):
        return stats.ttest_1samp(effect.seeds, bound, alternative=side).pvalue

    assert (verdict(effect) == "holds") == (p(0, "greater") < 0.025)
    lower = p(-margin, "greater") < 0.025
    assert (verdict(effect, "non-inferior", margin) == "holds") == lower
    both = lower and p(margin, "less") < 0.025
    assert (verdict(effect, "equivalent", margin) == "holds") == both


@pytest.mark.parametrize(
    ("kind", "margin"),
    [
        ("better", 0.0),
        ("non-inferior", 0.0),
        ("equivalent", 0),
        ("superior", -0.1),
        ("superior", 1),
    ],
)
def test_kinds_and_margins_that_make_no_sense_are_refused(kind, margin):
    with pytest.raises(ValueError, match=r"kind|margin"):
        verdict(some_effect(3), kind, margin)


def recorded_spreads():
    """Standard deviations over the three seeds of every difference of the first round."""

    def gaps(values):
        if isinstance(values, dict):
            if values.keys() >= {"seeds", "over_seeds"}:
                yield values["seeds"]
            else:
                for value in values.values():
                    yield from gaps(value)

    path = ROOT / "results" / "claims" / "first_round.json"
    found = [
        torch.tensor(seeds, dtype=torch.float64).std()
        for study in json.loads(path.read_text("utf-8")).values()
        for claim in study["claims"].values()
        for seeds in gaps(claim["values"])
        if len(seeds) == 3
    ]
    return torch.stack(found)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_an_effect_of_nothing_holds_in_one_case_of_forty(seeds):
    """With the spread over seeds that was on record, a true effect of 0 holds in 2.5 % ± 1 %."""
    spreads, g = recorded_spreads(), torch.Generator().manual_seed(0)
    assert len(spreads) > 100
    drawn = spreads[torch.randint(len(spreads), (4000, 1), generator=g)]
    means = drawn * torch.randn(4000, seeds, generator=g, dtype=torch.float64)
    said = [verdict(Effect(tuple(each), 0.001, 1800)) for each in means.tolist()]
    assert said.count("holds") / 4000 == pytest.approx(0.025, abs=0.01)
    assert said.count("does not hold") / 4000 == pytest.approx(0.025, abs=0.01)


# Answers


def test_counts_keep_accuracies_exactly():
    right = torch.tensor([0, 1, 37, 49, 50])
    kept = claims.right_answers(right, 50)
    assert kept == {"right": "0 1 37 49 50", "of": 50}
    assert claims.accuracies(json.loads(json.dumps(kept))) == [n / 50 for n in right.tolist()]
