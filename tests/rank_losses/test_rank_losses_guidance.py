"""Log-normal guidance (identity H10), the task-robust baselines, and what experiments need."""

import json
import math
from functools import partial
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from rank_cases import gradient, problems
from training_runs import learner, sampler

from metalearn_tut import MAML, RankedRange, models, tasks
from metalearn_tut.rank_losses import (
    LogNormalGuidance,
    Oracle,
    WorstMixture,
    clean_losses,
    simplex_projection,
)

NORMAL = NormalDist()


def log_normal(n, mu=0.0, sigma=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (mu + sigma * torch.randn(n, generator=generator, dtype=torch.float64)).exp()


# H10


@pytest.mark.parametrize("robust", [False, True])
def test_H10_exact_log_normal_losses_keep_the_shares_that_were_asked_for(robust):
    n, mu, sigma = 200_000, -0.5, 0.7
    losses = log_normal(n, mu, sigma)
    shares = {"drop_hardest": 0.2, "drop_easiest": 0.1}
    guided = LogNormalGuidance.fractions(**shares, robust=robust)
    value = guided(losses).item()
    low, high, kept = guided.log[0]
    assert len(kept) / n == pytest.approx(0.7, abs=0.005)
    ranked = losses.sort(descending=True).values
    assert low == pytest.approx(ranked[int(0.9 * n)].item(), rel=0.02)
    assert high == pytest.approx(ranked[int(0.2 * n)].item(), rel=0.02)
    a, b = NORMAL.inv_cdf(0.1), NORMAL.inv_cdf(0.8)
    mass = NORMAL.cdf(b - sigma) - NORMAL.cdf(a - sigma)
    expected = math.exp(mu + sigma**2 / 2) * mass / (NORMAL.cdf(b) - NORMAL.cdf(a))
    assert value == pytest.approx(expected, rel=0.01)
    assert value == pytest.approx(RankedRange.fractions(**shares)(losses).item(), rel=0.01)


@given(problems(), st.floats(0.01, 100), st.booleans())
def test_H10_scaled_losses_scale_the_thresholds_and_not_the_selection(problem, scale, robust):
    losses = problem[0] + 0.01
    plain, scaled = (LogNormalGuidance(-1.234, 0.987, robust=robust) for _ in range(2))
    assert torch.equal(plain.select(losses), scaled.select(scale * losses))
    if len(losses) > 1 and plain.log[0].high < math.inf:
        assert scaled.log[0].low == pytest.approx(scale * plain.log[0].low)
        assert scaled.log[0].high == pytest.approx(scale * plain.log[0].high)


@given(problems(distinct=False))
def test_H10_infinite_limits_are_the_mean(problem):
    losses, *_ = problem
    guided = LogNormalGuidance.fractions()
    assert (guided.z_low, guided.z_high) == (-math.inf, math.inf)
    assert torch.equal(guided(losses), losses.mean())
    assert torch.equal(gradient(guided, losses), gradient(torch.mean, losses))


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_H10_equal_losses_are_all_kept_whatever_came_before(dtype, robust):
    guided = LogNormalGuidance(-0.5, 0.5, robust=robust)
    for loss in (0.3, 0.7, 0.1):
        equal = torch.full((7,), loss, dtype=dtype)
        equal[0] *= 1 + torch.finfo(dtype).eps
        assert guided.log == [] or guided.log[-1].high == math.inf
        assert guided.select(equal).tolist() == pytest.approx([1 / 7] * 7)
    assert guided.select(torch.tensor([2.0])).tolist() == [1.0]


@given(st.floats(-5, 5), st.floats(0.01, 3))
def test_a_loss_at_a_threshold_is_kept(center, spread):
    # two losses are one deviation from their mean, but for rounding
    logs = [center - spread, center + spread]
    losses = torch.tensor(logs, dtype=torch.float64).exp()
    assert LogNormalGuidance(-1.0, 1.0).select(losses).tolist() == [0.5, 0.5]
    assert LogNormalGuidance(-0.999, 1.0).select(losses).tolist() == [0.0, 1.0]
    assert LogNormalGuidance(-1.0, 0.999).select(losses).tolist() == [1.0, 0.0]


def test_the_fit_is_a_moving_average_of_mean_and_deviation():
    beta, guided = 0.8, LogNormalGuidance(-1.5, 0.5, beta=0.8)
    mu = sigma = None
    for step in range(5):
        losses = log_normal(9, mu=-step, sigma=1 + 0.1 * step, seed=step)
        logs = [math.log(loss) for loss in losses.tolist()]
        mean = sum(logs) / 9
        deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 9)
        mu = mean if mu is None else beta * mu + (1 - beta) * mean
        sigma = deviation if sigma is None else beta * sigma + (1 - beta) * deviation
        low, high = math.exp(mu - 1.5 * sigma), math.exp(mu + 0.5 * sigma)
        kept = [low <= loss <= high for loss in losses.tolist()]
        weights = guided.select(losses)
        assert weights.tolist() == pytest.approx([a / max(1, sum(kept)) for a in kept])
        assert guided.log[-1].low == pytest.approx(low)
        assert guided.log[-1].high == pytest.approx(high)


def test_noisy_tasks_inflate_the_deviation_and_not_the_robust_one():
    losses = torch.cat([log_normal(14, -2, 0.3), log_normal(6, 2, 0.3, seed=1)])
    plain, robust = LogNormalGuidance(-3, 2), LogNormalGuidance(-3, 2, robust=True)
    plain.select(losses), robust.select(losses)
    assert plain.log[0].kept == tuple(range(20))
    assert robust.log[0].kept == tuple(range(14))
    logs = sorted(losses.log().tolist())
    median = (logs[9] + logs[10]) / 2
    away = sorted(abs(x - median) for x in logs)
    spread = 1.4826 * (away[9] + away[10]) / 2
    assert robust.log[0].high == pytest.approx(math.exp(median + 2 * spread))


def test_clean_losses_can_be_the_source_and_are_asked_for_every_few_steps():
    asked = []

    def clean():
        asked.append(len(guided.log))
        return log_normal(50, mu=-1.0, sigma=0.2)

    guided = LogNormalGuidance(-2, 2, source=clean, every=3, burn_in=1)
    noisy = log_normal(8, mu=3.0)
    weights = [guided.select(noisy) for _ in range(5)]
    assert asked == [0, 3]
    assert torch.equal(weights[0], torch.full_like(noisy, 1 / 8))
    assert not torch.stack(weights[1:]).any()  # nothing here looks like a clean task
    logs = log_normal(50, mu=-1.0, sigma=0.2).log()
    low = (logs.mean() - 2 * logs.std(correction=0)).exp().item()
    assert guided.log[1].low == pytest.approx(low)


def test_clean_losses_are_the_query_losses_after_adaptation_and_leave_the_learner_alone():
    trained = learner()
    found = partial(clean_losses, trained, sampler(1), 5)()
    expected = trained.task_losses(sampler(1).batch(0, 5)).losses
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_clean_losses_of_a_task_without_all_its_labels_say_so():
    model = models.Conv4(1, ways=5, width=4, norm="support")
    trained = MAML(model, zero_head=True)  # as many outputs as the support set has labels
    good = tasks.glyphs("validation").sampler(5, 1, 1)
    noisy = tasks.NoisyTasks(good, rate=1.0, kind="random")
    first = next(i for i in range(50) if noisy[i].support_y.max() == 3)
    with pytest.raises(ValueError, match=r"task \d+ of sampler .* asks for label 4, .* up to \d"):
        clean_losses(trained, noisy, first + 1)
    assert clean_losses(trained, good, 2).shape == (2,)


def test_losses_of_zero_have_a_logarithm():
    losses = torch.tensor([0.0, 1.0, 1.1])
    guided = LogNormalGuidance(-1.0, 2.0)
    assert guided.select(losses).tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogNormalGuidance(-1, 0.5, burn_in=2),
        lambda: LogNormalGuidance(-1, 0.5, robust=True, beta=0.5),
        lambda: WorstMixture(pool=10, rate=0.05),
        lambda: Oracle(lambda index: index % 3 == 0),
    ],
)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_memory_that_went_through_json_goes_on_to_the_bit(make, stop):
    batches = [log_normal(4, seed=step).float() for step in range(9)]
    whole, first, second = make(), make(), make()
    whole.keeps_log = first.keeps_log = second.keeps_log = True
    expected = [whole.select(losses) for losses in batches]
    for losses in batches[:stop]:
        first.select(losses)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for losses, weights in zip(batches[stop:], expected[stop:], strict=True):
        assert torch.equal(second.select(losses), weights)
    assert second.log == whole.log and second.state_dict() == whole.state_dict()


# TR-MAML


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_the_projection_onto_the_simplex_is_the_nearest_distribution(values):
    v = torch.tensor(values, dtype=torch.float64)
    p = simplex_projection(v)
    assert p.min() >= 0 and p.sum().item() == pytest.approx(1)
    # nearest if and only if (v - p)·(q - p) <= 0 for every distribution q, hence every corner
    for corner in torch.eye(len(v), dtype=torch.float64):
        assert ((v - p) @ (corner - p)).item() <= 1e-9
    torch.testing.assert_close(simplex_projection(p), p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_projection_of_large_numbers_is_that_of_their_differences(dtype):
    large = torch.tensor([1e17, 0.0], dtype=dtype)
    assert simplex_projection(large).tolist() == [1.0, 0.0]
    assert simplex_projection(large[[0, 0, 1]]).tolist() == [0.5, 0.5, 0.0]


def test_the_worst_mixture_is_projected_ascent_on_the_tasks_of_each_step():
    pool, n, rate = 5, 2, 0.1
    aggregate, p = WorstMixture(pool, rate), torch.full((5,), 0.2, dtype=torch.float64)
    for step in range(8):
        losses, here = log_normal(n, seed=step), [(step * n + i) % pool for i in range(n)]
        expected = [p[j].item() * pool / n for j in here]
        assert aggregate.select(losses).tolist() == pytest.approx(expected)
        for j, loss in zip(here, losses.tolist(), strict=True):
            p[j] += rate * loss
        p = simplex_projection(p)
        torch.testing.assert_close(aggregate.mixture, p)


def test_the_worst_mixture_starts_as_the_mean_and_ends_on_the_worst_task():
    aggregate, losses = WorstMixture(pool=4, rate=0.05), torch.tensor([1.0, 2.0, 4.0, 3.0])
    assert torch.equal(aggregate(losses), losses.mean())
    for _ in range(100):
        aggregate.select(losses)
    assert aggregate.mixture.tolist() == [0, 0, 1, 0]
    assert aggregate(losses) == losses.max()


def test_a_pool_is_cycled_through():
    whole = tasks.sinusoid()
    pool = tasks.Pool(whole, 3)
    for index in (0, 2, 3, 7, 2**40):
        assert torch.equal(pool[index].query_x, whole[index % 3].query_x)
    assert repr(pool) == f"Pool({whole!r}, size=3)"
    with pytest.raises(ValueError, match="size must be an integer >= 1, got 0"):
        tasks.Pool(whole, 0)
    with pytest.raises(IndexError, match="task index must be in"):
        pool[-1]


# The oracle


def test_the_oracle_keeps_the_clean_tasks_of_every_step():
    mixed = tasks.NoisyTasks(sampler(), rate=0.4, seed=3)
    oracle = Oracle(lambda index: mixed[index].tags["noisy"])
    for step in range(5):
        clean = [not task.tags["noisy"] for task in mixed.batch(step, 6)]
        weights = oracle.select(torch.rand(6))
        assert weights.tolist() == pytest.approx([c / max(1, sum(clean)) for c in clean])
    assert {len(step.kept) for step in oracle.log} != {6}
    assert Oracle(lambda index: True).select(torch.rand(3)).tolist() == [0, 0, 0]


# What is refused


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: LogNormalGuidance(1, 1), "z_low must be less than z_high, got 1 and 1"),
        (lambda: LogNormalGuidance(math.nan, 1), "z_low must be less than z_high"),
        (lambda: LogNormalGuidance(beta=1.0), r"beta must be in \[0, 1\), got 1.0"),
        (lambda: LogNormalGuidance(every=0), "every must be an integer >= 1, got 0"),
        (lambda: LogNormalGuidance.fractions(drop_hardest=1.0), "drop_hardest must be in"),
        (
            lambda: LogNormalGuidance(source=lambda: torch.tensor([math.nan])).select(
                torch.ones(2)
            ),
            "losses must not be NaN",
        ),
        (lambda: LogNormalGuidance().select(torch.tensor([1.0, math.nan])), r"tasks \[1\]"),
        (lambda: WorstMixture(0), "pool must be an integer >= 1, got 0"),
        (lambda: WorstMixture(5, rate=0), "rate must be positive, got 0"),
        (lambda: WorstMixture(3).select(torch.ones(4)), "batch of 4 tasks is larger than the pool"),
    ],
)
def test_wrong_arguments_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_names_say_all_settings():
    assert repr(LogNormalGuidance()) == (
        "LogNormalGuidance(z_low=-2.0, z_high=1.0, beta=0.9, robust=False, source=None, every=1, "
        "burn_in=0)"
    )
    assert repr(WorstMixture(7)) == "WorstMixture(pool=7, rate=0.0001, burn_in=0)"
    assert repr(Oracle(F.relu)).startswith("Oracle(<function relu")
