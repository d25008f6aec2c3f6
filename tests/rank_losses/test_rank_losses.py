"""The average of a range of ranks: identities H1 to H6 over random losses, and bad input."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from rank_cases import gradient, problems

from metalearn_tut import RankedRange
from metalearn_tut.rank_losses import TaskAggregate


def top_sum(losses, k):
    return losses.topk(k).values.sum() if k else losses.new_zeros(())


@given(problems(distinct=False))
def test_H1_the_sum_over_ranks_is_a_difference_of_top_sums(problem):
    losses, m, k = problem
    total = RankedRange(m, k)(losses) * (k - m)
    torch.testing.assert_close(total, top_sum(losses, k) - top_sum(losses, m))
    torch.testing.assert_close(total, losses.sort(descending=True).values[m:k].sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 49, 100])
def test_H4_full_range_is_bitwise_the_mean(n, dtype):
    losses = torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(n)).exp()
    for full in (RankedRange(0, n), RankedRange.fractions()):
        assert torch.equal(full(losses), losses.mean())
        assert torch.equal(gradient(full, losses), gradient(torch.mean, losses))
        assert torch.equal(full.select(losses), gradient(torch.mean, losses))


@given(problems(distinct=False))
def test_H4_special_ranges(problem):
    losses, _, k = problem
    n = len(losses)
    assert RankedRange(0, 1)(losses) == losses.max()
    assert RankedRange(n - 1, n)(losses) == losses.min()
    assert RankedRange(k - 1, k)(losses) == losses.sort(descending=True).values[k - 1]
    torch.testing.assert_close(RankedRange(0, k)(losses), losses.topk(k).values.mean())


@given(problems())
def test_H4_the_average_falls_as_m_or_k_grows(problem):
    losses, m, k = problem
    value = RankedRange(m, k)(losses)
    if m + 1 < k:
        assert RankedRange(m + 1, k)(losses) <= value + 1e-12
    if k < len(losses):
        assert RankedRange(m, k + 1)(losses) <= value + 1e-12


@given(problems(), st.randoms(use_true_random=False), st.floats(-5, 5), st.floats(0.1, 10))
def test_H5_order_shift_and_scale(problem, random, shift, scale):
    losses, m, k = problem
    aggregate, order = RankedRange(m, k), list(range(len(losses)))
    random.shuffle(order)
    value = aggregate(losses)
    torch.testing.assert_close(aggregate(losses[order]), value)
    assert torch.equal(gradient(aggregate, losses[order]), gradient(aggregate, losses)[order])
    torch.testing.assert_close(aggregate(losses + shift), value + shift)
    torch.testing.assert_close(aggregate(scale * losses), scale * value)


@given(problems())
def test_H5_the_m_hardest_can_be_anything_and_one_more_cannot(problem):
    losses, m, k = problem
    aggregate, order = RankedRange(m, k), losses.argsort(descending=True)
    broken = losses.clone()
    broken[order[:m]] = math.inf
    assert torch.equal(aggregate(broken), aggregate(losses))
    assert torch.equal(gradient(aggregate, broken), gradient(aggregate, losses))
    broken[order[m]] = math.inf
    assert aggregate(broken) == math.inf


@given(problems(distinct=False))
def test_H6_the_gradient_is_the_indicator_of_the_ranks_over_their_number(problem):
    losses, m, k = problem
    found = gradient(RankedRange(m, k), losses)
    by_hand = torch.zeros_like(losses)
    # of equal losses the earlier is the harder
    order = sorted(range(len(losses)), key=lambda i: (-losses[i].item(), i))
    for i in order[m:k]:
        by_hand[i] = 1 / (k - m)
    assert torch.equal(found, by_hand)
    assert found.sum().item() == pytest.approx(1)
    assert torch.equal(RankedRange(m, k).select(losses), by_hand)


@given(problems())
def test_H6_selection_follows_finite_differences(problem):
    losses, m, k = problem
    aggregate, h = RankedRange(m, k), 1e-4  # less than any difference between two losses
    assume(len(losses) > 1)
    for i, slope in enumerate(gradient(aggregate, losses).tolist()):
        step = torch.zeros_like(losses)
        step[i] = h
        found = (aggregate(losses + step) - aggregate(losses - step)) / (2 * h)
        assert found.item() == pytest.approx(slope, abs=1e-8)


# Shares, burn-in and the log


@pytest.mark.parametrize(
    ("hardest", "easiest", "n", "ranks"),
    [
        (0.2, 0.1, 16, (4, 15)),
        (0.0, 0.0, 5, (0, 5)),
        (0.3, 0.1, 10, (3, 9)),
        (0.07, 0.1, 100, (7, 90)),
        (0.29, 0.29, 100, (29, 71)),
        (0.5, 0.0, 3, (2, 3)),
    ],
)
def test_shares_drop_at_least_that_many_hard_and_at_most_that_many_easy(hardest, easiest, n, ranks):
    aggregate = RankedRange.fractions(drop_hardest=hardest, drop_easiest=easiest)
    assert aggregate.ranks(n) == ranks
    losses = torch.rand(n, generator=torch.Generator().manual_seed(0))
    assert torch.equal(aggregate(losses), RankedRange(*ranks)(losses))


def test_burn_in_is_the_mean_and_the_log_has_every_step():
    aggregate, losses = RankedRange(1, 3, burn_in=2), torch.tensor([4.0, 1.0, 3.0, 2.0])
    values = [aggregate(losses).item() for _ in range(3)]
    assert values == [2.5, 2.5, 2.5]
    assert [step.kept for step in aggregate.log] == [(0, 1, 2, 3), (0, 1, 2, 3), (2, 3)]
    assert aggregate.log[0][:2] == (None, None) and aggregate.log[2][:2] == (2.0, 4.0)
    aggregate.load_state_dict({})
    assert aggregate.log == [] and aggregate.select(losses).tolist() == [0.25] * 4


def test_the_state_has_the_clock_and_does_not_grow_with_the_steps():
    aggregate, losses = RankedRange(1, 3, burn_in=2), torch.tensor([4.0, 1.0, 3.0, 2.0])
    for _ in range(3):
        aggregate.select(losses)
    assert aggregate.state_dict() == {"step": 3, "memory": {}} and len(aggregate.log) == 3
    resumed = RankedRange(1, 3, burn_in=5)
    resumed.load_state_dict({"step": 4, "memory": {}})
    weights = [resumed.select(losses).tolist() for _ in range(2)]  # the burn-in's last, and after
    assert weights == [[0.25] * 4, [0, 0, 0.5, 0.5]]
    assert resumed.step == 6 and len(resumed.log) == 2


def test_no_gradient_passes_through_the_selection():
    losses = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    assert not RankedRange(1, 2).select(losses).requires_grad


class Softened(TaskAggregate):
    """An aggregate of a user: weights that are a smooth function of the losses."""

    def _weigh(self, losses):
        return losses.softmax(0), None, None


def test_weights_of_any_aggregate_are_constants():
    losses = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    weights = losses.softmax(0)
    assert torch.equal(Softened().select(losses), weights)
    torch.testing.assert_close(gradient(Softened(), losses), weights, rtol=1e-14, atol=0)


# What is refused


@pytest.mark.parametrize(("m", "k"), [(5, 5), (-1, 3), (4, 2), (0, 0)])
def test_an_empty_range_is_refused(m, k):
    with pytest.raises(ValueError, match=f"needs 0 <= m < k <= n, got m={m}, k={k}$"):
        RankedRange(m, k)


def test_counts_beyond_the_batch_are_refused_with_its_size():
    expected = "^RankedRange needs 0 <= m < k <= n, got m=2, k=5 with n=4 tasks$"
    with pytest.raises(ValueError, match=expected):
        RankedRange(2, 5)(torch.rand(4))
    with pytest.raises(ValueError, match="got m=0, k=2 with n=1 tasks"):
        RankedRange(0, 2)(torch.rand(1))
    with pytest.raises(ValueError, match="got m=2, k=2 with n=3 tasks"):
        RankedRange.fractions(drop_hardest=0.5, drop_easiest=0.4)(torch.rand(3))


def test_counts_that_are_shares_are_refused():
    with pytest.raises(ValueError, match=r"m must be an integer, got 0.2; .*fractions"):
        RankedRange(0.2, 1)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"drop_hardest": 1.0}, r"drop_hardest must be in \[0, 1\), got 1.0"),
        ({"drop_hardest": -0.1}, r"drop_hardest must be in \[0, 1\), got -0.1"),
        ({"drop_easiest": math.nan}, r"drop_easiest must be in \[0, 1\), got nan"),
        ({"drop_hardest": 0.5, "drop_easiest": 0.5}, "must be less than 1, got 0.5"),
    ],
)
def test_shares_that_leave_nothing_are_refused(shares, said):
    with pytest.raises(ValueError, match=said):
        RankedRange.fractions(**shares)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (torch.tensor([1.0, math.nan, 2.0, math.nan]), r"not be NaN, got NaN for tasks \[1, 3\]"),
        (torch.tensor(1.0), r"vector of at least one .* got shape \[\]"),
        (torch.zeros(0), r"vector of at least one .* got shape \[0\]"),
        (torch.zeros(2, 2), r"vector of at least one .* got shape \[2, 2\]"),
        (torch.tensor([1, 2]), "floating-point number, .* of torch.int64"),
    ],
)
def test_losses_that_cannot_be_ranked_are_refused(losses, said):
    with pytest.raises(ValueError, match=said):
        RankedRange(0, 1)(losses)


@pytest.mark.parametrize("burn_in", [-1, 1.5])
def test_a_wrong_burn_in_is_refused(burn_in):
    with pytest.raises(ValueError, match="burn_in must be an integer >= 0"):
        RankedRange(0, 1, burn_in=burn_in)


def test_a_batch_of_one_task_is_its_loss():
    assert RankedRange(0, 1)(torch.tensor([3.0])).item() == 3.0


def test_the_name_of_an_aggregate_says_its_settings():
    assert repr(RankedRange(1, 3)) == "RankedRange(m=1, k=3, burn_in=0)"
    assert repr(RankedRange.fractions(drop_hardest=0.2, burn_in=5)) == (
        "RankedRange(drop_hardest=0.2, drop_easiest=0.0, burn_in=5)"
    )


def test_H6_in_a_large_batch_of_equal_losses_the_earlier_are_the_harder():
    losses = torch.ones(40)
    losses[::3] = 2.0  # 14 of them
    kept = RankedRange(10, 20).select(losses).nonzero().flatten().tolist()
    assert kept == sorted([*range(30, 40, 3), *[i for i in range(40) if i % 3][:6]])
