"""The statistics of claims: against sums by hand, and against SciPy."""

import math
import statistics

import pytest
import torch
from scipy import stats

from metalearn_tut.claims import statistics as claims

# Seeds


@pytest.mark.parametrize("probability", [0.9, 0.95, 0.975, 0.995])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 11, 29, 30, 100])
def test_students_points_are_scipys(degrees, probability):
    found = claims.student_quantile(degrees, probability)
    assert found == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


@pytest.mark.parametrize(("degrees", "probability"), [(0, 0.9), (3, 0.5), (3, 1.0), (3, 97.5)])
def test_a_point_that_there_is_not_is_refused(degrees, probability):
    with pytest.raises(ValueError, match=f"got degrees={degrees}, probability={probability}"):
        claims.student_quantile(degrees, probability)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_the_interval_over_seeds_is_that_of_a_t_test(seeds):
    means = torch.rand(seeds, generator=torch.Generator().manual_seed(seeds)).double().tolist()
    mean, half = claims.interval_over_seeds(means)
    expected = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    # to the three decimals of the point
    assert (mean - half, mean + half) == pytest.approx(tuple(expected), rel=1e-3)
    point = round(float(stats.t.ppf(0.975, seeds - 1)), 3)
    assert half == pytest.approx(point * statistics.stdev(means) / seeds**0.5, rel=1e-12)


# Paired differences


def test_a_difference_is_over_tasks_of_the_mean_over_seeds_and_over_seeds():
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 50, generator=g, dtype=torch.float64)
    found = claims.difference(a, b)
    tasks = [sum((a[s, t] - b[s, t]).item() for s in range(3)) / 3 for t in range(50)]
    mean = sum(tasks) / 50
    sd = (sum((t - mean) ** 2 for t in tasks) / 49) ** 0.5
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.over_tasks == pytest.approx(1.96 * sd / 50**0.5, abs=1e-12)
    seeds = [(a[s] - b[s]).mean().item() for s in range(3)]
    sd = (sum((s - mean) ** 2 for s in seeds) / 2) ** 0.5
    assert found.seeds == pytest.approx(seeds, abs=1e-12)
    assert found.over_seeds == pytest.approx(4.303 * sd / 3**0.5, abs=1e-12)
    assert found.low == found.mean - found.over_tasks
    assert found.high == found.mean + found.over_tasks and found.n_tasks == 50


def test_a_difference_needs_the_same_seeds_and_tasks():
    with pytest.raises(ValueError, match=r"got shapes \[3, 5\] and \[2, 5\]"):
        claims.difference(torch.zeros(3, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        claims.interval_over_seeds([0.0])
    assert claims.difference(torch.zeros(1, 5), torch.zeros(1, 5)).over_seeds is None


def test_counts_keep_accuracies_exactly():
    right = torch.tensor([0, 1, 37, 49, 50])
    text = claims.correct_counts(right.float() / 50, 50)
    assert text == "0 1 37 49 50"
    assert torch.equal(claims.accuracies(text, 50), right.double() / 50)


# Losses


def test_the_distance_from_the_fitted_normal_is_scipys():
    losses = torch.rand(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    fit, logs = claims.log_normal_fit(losses), losses.log().numpy()
    found = stats.kstest(logs, "norm", args=(logs.mean(), logs.std(ddof=1)))
    assert fit["ks"] == pytest.approx(found.statistic, abs=1e-12)


def test_the_fit_is_the_distance_from_the_fitted_log_normal():
    losses = torch.rand(83, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    fit = claims.log_normal_fit(losses)
    logs = sorted(math.log(x) for x in losses.tolist())
    normal = statistics.NormalDist(statistics.mean(logs), statistics.stdev(logs))
    gaps = [abs(normal.cdf(x) - share / 83) for i, x in enumerate(logs) for share in (i, i + 1)]
    assert fit["ks"] == pytest.approx(max(gaps), abs=1e-12)
    assert (fit["mu"], fit["sigma"]) == pytest.approx((normal.mean, normal.stdev), abs=1e-12)
    quantiles = [statistics.NormalDist().inv_cdf((i + 0.5) / 83) for i in range(83)]
    assert fit["qq"] == pytest.approx(statistics.correlation(quantiles, logs), abs=1e-12)
    assert [quantiles[41], logs[41]] == pytest.approx(fit["points"][9], abs=1e-4)


def test_log_normal_losses_are_rejected_one_time_in_twenty_and_two_heaps_always():
    g = torch.Generator().manual_seed(0)

    def rejected(z):
        return claims.log_normal_fit((0.3 + 0.7 * z).exp())["rejected_at_5_percent"]

    share = sum(rejected(torch.randn(100, generator=g)) for _ in range(500)) / 500
    assert 0.03 < share < 0.07  # 0.05 ± 0.019
    heaps = [torch.randn(200, generator=g) + 3 * (torch.arange(200) % 2) for _ in range(10)]
    assert all(map(rejected, heaps))
