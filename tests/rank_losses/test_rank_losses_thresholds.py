"""Thresholds in place of ranks: identities H2, H3, H9 and H11, and the trackers built on them."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_cases import gradient, problems

from metalearn_tut.rank_losses import (
    RankedRange,
    ThresholdTracker,
    difference_of_tops,
    nested_hinges,
)

anywhere = st.floats(-2, 12)
MODES = ("sgda", "sgda_f2")


def ranked(losses):
    """Losses in descending order with what lies beyond: index r is the loss of rank r."""
    values = losses.sort(descending=True).values.tolist()
    return [math.inf, *values, -math.inf]


def total(losses, m, k):
    return sum(ranked(losses)[m + 1 : k + 1])


def drawn_batches(steps, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, n, generator=generator, dtype=torch.float64).exp()


# The two forms


@given(problems(distinct=False), anywhere, st.floats(0, 1))
def test_H2_the_top_sum_is_a_minimum_over_the_lower_threshold(problem, somewhere, share):
    losses, _, k = problem
    order = ranked(losses)
    exact = total(losses, 0, k)
    assert difference_of_tops(losses, 0, k, somewhere, None).item() >= exact - 1e-9
    below = max(order[k + 1], order[k] - 1)
    inside = share * order[k] + (1 - share) * below
    for low in (order[k], below, inside):
        assert difference_of_tops(losses, 0, k, low, None).item() == pytest.approx(exact)


@given(problems(distinct=False), anywhere, st.floats(0, 12))
def test_H3_both_forms_have_the_sum_as_their_saddle_value(problem, low, upper):
    losses, m, k = problem
    order, exact = ranked(losses), total(losses, m, k)
    best_low, best_high = order[k], order[m] if m else None
    best_gap = order[m] - order[k] if m else None
    value = difference_of_tops(losses, m, k, best_low, best_high).item()
    assert value == pytest.approx(exact, abs=1e-9)
    assert nested_hinges(losses, m, k, best_low, best_gap).item() == pytest.approx(exact, abs=1e-9)
    # the other threshold held at its best, each can only be worse
    assert difference_of_tops(losses, m, k, low, best_high).item() >= exact - 1e-9
    if m:
        assert difference_of_tops(losses, m, k, best_low, upper).item() <= exact + 1e-9
        assert nested_hinges(losses, m, k, best_low, upper).item() <= exact + 1e-9
    # the inner maximum of F2 is attained at [l_[m] - low]_+
    widest = max(order[m] - low, 0.0) if m else None
    assert nested_hinges(losses, m, k, low, widest).item() >= exact - 1e-9


@given(problems(), anywhere, st.floats(0, 6))
def test_derivatives_of_both_forms_count_losses_between_thresholds(problem, low, gap):
    losses, m, k = problem
    n, high = len(losses), low + gap
    leaves = [t.requires_grad_() for t in (losses.clone(), *losses.new_tensor([low, high]))]
    by_loss, by_low, by_high = torch.autograd.grad(
        difference_of_tops(leaves[0], m, k, *leaves[1:]), leaves
    )
    above_low, above_high = losses > low, losses > high
    assert torch.equal(by_loss, (above_low & ~above_high).double())
    assert by_low == k - above_low.sum() and by_high == above_high.sum() - m

    leaves[2] = losses.new_tensor(gap).requires_grad_()
    by_loss, by_low, by_gap = torch.autograd.grad(
        nested_hinges(leaves[0], m, k, *leaves[1:]), leaves
    )
    excess = (losses - low).clamp(min=0)
    between = above_low & (excess < gap)
    assert torch.equal(by_loss, between.double())
    assert by_low == (k - m) - between.sum() and by_gap == (n - m) - (excess < gap).sum()


@given(problems())
def test_selection_at_the_order_statistics_is_off_by_one_and_between_them_is_not(problem):
    losses, m, k = problem
    order = ranked(losses)

    def selected(low, high):
        chosen = gradient(lambda x: difference_of_tops(x, m, k, low, high), losses) > 0
        return sorted(losses[chosen].tolist(), reverse=True)

    low, high = (max(order[k + 1], order[k] - 1) + order[k]) / 2, None
    if m:
        high = (order[m] + order[m + 1]) / 2
        assert selected(order[k], order[m]) == order[m:k]
    assert selected(low, high) == order[m + 1 : k + 1]


@given(problems(), anywhere, st.floats(0, 6), st.floats(1, 50))
def test_H11_the_smooth_hinge_is_at_most_log_2_over_a_above(problem, low, gap, sharpness):
    losses, m, k = problem
    n = len(losses)
    hard = difference_of_tops(losses, 0, k, low, None)
    smooth = difference_of_tops(losses, 0, k, low, None, sharpness)
    assert -1e-9 <= (smooth - hard).item() <= n * math.log(2) / sharpness + 1e-9
    slope = gradient(lambda x: difference_of_tops(x, m, k, low, low + gap, sharpness), losses)
    by_hand = torch.sigmoid(sharpness * (losses - low))
    by_hand = by_hand - torch.sigmoid(sharpness * (losses - low - gap))
    torch.testing.assert_close(slope, by_hand, rtol=1e-9, atol=1e-12)
    far = ((losses - low).abs() > 1e-3) & ((losses - low - gap).abs() > 1e-3)
    sharp = gradient(lambda x: difference_of_tops(x, m, k, low, low + gap, 1e6), losses)
    hard = gradient(lambda x: difference_of_tops(x, m, k, low, low + gap), losses)
    torch.testing.assert_close(sharp[far], hard[far], rtol=0, atol=1e-12)


# The tracker


@pytest.mark.parametrize("mode", MODES)
@given(problems(), st.integers(0, 3))
def test_H9_thresholds_find_the_ranks_of_frozen_losses(mode, problem, away):
    losses, m, k = problem
    order = ranked(losses)
    aggregate = ThresholdTracker(m, k, mode=mode, rate=0.5, burn_in=1)
    first = aggregate.select(losses + away)  # the start is that much too high
    assert torch.equal(first, torch.full_like(losses, 1 / len(losses)))
    for _ in range(5000):
        aggregate.select(losses)
        low, high, kept = aggregate.log[-1]
        if inside(low, order, k) and inside(high, order, m):
            break
    slack = 0.5 / 50  # steps of sqrt(t) still overshoot an interval that is narrower
    assert inside(low, order, k, slack) and inside(high, order, m, slack)
    if inside(low, order, k) and inside(high, order, m):
        # F2's upper comparison is strict, and both agree away from the ends
        assert sorted((losses[i].item() for i in kept), reverse=True) == order[m + 1 : k + 1]


def inside(threshold, order, rank, slack=0.0):
    if threshold is None:
        return rank in (0, len(order) - 2)
    return order[rank + 1] - slack < threshold < order[rank] + slack


@pytest.mark.parametrize("mode", MODES)
def test_a_tracker_is_descent_and_ascent_written_out(mode):
    m, k, n, eta = 2, 6, 8, 0.3
    batches = drawn_batches(40, n)
    aggregate = ThresholdTracker(m, k, mode=mode, rate=eta, high_rate=0.2, decay=0.25, burn_in=3)
    for losses in batches[:3]:
        assert torch.equal(aggregate.select(losses), torch.full_like(losses, 1 / n))
    burnt = batches[:3].flatten().sort(descending=True).values.tolist()
    low, high = (burnt[17] + burnt[18]) / 2, (burnt[5] + burnt[6]) / 2
    for t, losses in enumerate(batches[3:].tolist()):
        if mode == "sgda":
            kept = [low < loss <= high for loss in losses]
            by_low = k - sum(loss > low for loss in losses)
            by_high = sum(loss > high for loss in losses) - m
        else:
            kept = [low < loss < high for loss in losses]
            by_low = (k - m) - sum(kept)
            by_high = (n - m) - sum(max(loss - low, 0) < high - low for loss in losses)
        weights = aggregate.select(torch.tensor(losses, dtype=torch.float64))
        assert weights.tolist() == [a / (k - m) for a in kept]
        assert aggregate.log[-1].low == pytest.approx(low, rel=1e-12)
        assert aggregate.log[-1].high == pytest.approx(high, rel=1e-12)
        step_low, step_high = (rate / n / (1 + t) ** 0.25 for rate in (eta, 0.2))
        gap = high - low + step_high * by_high
        low = low - step_low * by_low
        high = high + step_high * by_high if mode == "sgda" else low + gap


def test_the_authors_start_takes_the_upper_loss_for_the_gap():
    losses = torch.tensor([8.0, 7.0, 5.0, 3.0, 2.0])
    starts = {}
    for init in ("correct", "authors"):
        aggregate = ThresholdTracker(1, 4, mode="sgda_f2", init=init, burn_in=1)
        for _ in range(2):
            aggregate.select(losses)
        starts[init] = aggregate.log[-1]
    assert starts["correct"] == (2.5, 7.5, (1, 2, 3))
    assert starts["authors"] == (3.0, 11.0, (0, 1, 2))


@pytest.mark.parametrize("mode", MODES)
def test_the_full_range_is_always_the_mean(mode):
    aggregate = ThresholdTracker(0, 6, mode=mode, burn_in=2)
    for step, losses in enumerate(drawn_batches(8, 6)):
        assert torch.equal(aggregate(losses / (step + 1)), (losses / (step + 1)).mean())
        assert aggregate.log[-1][:2] == (None, None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("m", "k"), [(0, 4), (2, 6)])
def test_a_range_that_is_open_on_one_side_has_one_threshold(mode, m, k):
    aggregate = ThresholdTracker(m, k, mode=mode, burn_in=0)
    for losses in drawn_batches(5, 6):
        weights = aggregate.select(losses)
        low, high, _ = aggregate.log[-1]
        assert (low is None, high is None) == (k == 6, m == 0)
        kept = losses > low if high is None else losses < high
        assert torch.equal(weights, kept / (k - m))


@pytest.mark.parametrize("mode", MODES)
def test_without_burn_in_the_first_batch_is_selected_exactly(mode):
    losses = drawn_batches(1, 9)[0]
    found = ThresholdTracker(2, 6, mode=mode, burn_in=0).select(losses)
    assert torch.equal(found, RankedRange(2, 6).select(losses))


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_selection_weighs_nothing_and_moves_the_thresholds(mode):
    aggregate = ThresholdTracker(1, 3, mode=mode, rate=0.5, burn_in=1)
    losses = torch.tensor([4.0, 3.0, 2.0, 1.0])
    aggregate.select(losses)
    far = (losses / 10).requires_grad_()
    value = aggregate(far)
    value.backward()
    assert value.item() == 0 and not far.grad.any()
    before = aggregate.log[-1]
    assert before.low == 1.5 and before.high == 3.5 and before.kept == ()
    for _ in range(2000):
        aggregate.select(far)
    assert aggregate.log[1].low > aggregate.log[2].low
    assert aggregate.log[-1].kept == (1, 2)


def test_smoothed_weights_are_differences_of_logistics():
    losses = drawn_batches(1, 6)[0]
    aggregate = ThresholdTracker(1, 4, sharpness=3.0, burn_in=0)
    weights = aggregate.select(losses)
    low, high, _ = aggregate.log[-1]
    by_hand = torch.sigmoid(3 * (losses - low)) - torch.sigmoid(3 * (losses - high))
    torch.testing.assert_close(weights, by_hand / 3)


def test_thresholds_that_cross_select_nothing_between_them():
    aggregate = ThresholdTracker(1, 3, burn_in=0)
    aggregate.load_state_dict({"memory": {"thresholds": [3.0, 1.5]}})
    assert aggregate.select(torch.tensor([4.0, 2.0, 1.0, 0.5])).tolist() == [0.0] * 4


def test_shares_track_the_same_ranks():
    by_share = ThresholdTracker.fractions(drop_hardest=0.25, drop_easiest=0.125, burn_in=2)
    by_count = ThresholdTracker(2, 7, burn_in=2)
    for losses in drawn_batches(6, 8):
        assert torch.equal(by_share.select(losses), by_count.select(losses))


# Memory


def test_a_state_serves_as_often_as_it_is_loaded():
    tracker, batches = ThresholdTracker(1, 4, burn_in=3), drawn_batches(4, 6)
    tracker.select(batches[0])
    kept = tracker.state_dict()
    written = json.dumps(kept)
    for _ in range(2):
        again = ThresholdTracker(1, 4, burn_in=3)
        again.load_state_dict(kept)
        for losses in batches[1:]:
            again.select(losses)
        assert json.dumps(kept) == written


@pytest.mark.parametrize(
    "make",
    [
        lambda: RankedRange(1, 4, burn_in=2),
        lambda: ThresholdTracker(1, 4, burn_in=4),
        lambda: ThresholdTracker(1, 4, mode="sgda_f2", init="authors", burn_in=2),
    ],
)
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_memory_that_went_through_json_goes_on_to_the_bit(make, stop):
    batches = drawn_batches(10, 6).float()
    whole, first, second = make(), make(), make()
    whole.keeps_log = first.keeps_log = second.keeps_log = True
    expected = [whole.select(losses) for losses in batches]
    for losses in batches[:stop]:
        first.select(losses)
    kept = first.state_dict()
    first.select(batches[0])  # what was given away does not change behind one's back
    second.load_state_dict(json.loads(json.dumps(kept)))
    for losses, weights in zip(batches[stop:], expected[stop:], strict=True):
        assert torch.equal(second.select(losses), weights)
    assert second.log == whole.log and second.state_dict() == whole.state_dict()


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "exact"}, "mode must be one of 'sgda', 'sgda_f2', got 'exact'"),
        ({"init": "zero"}, "init must be one of 'correct', 'authors', got 'zero'"),
        ({"init": "authors"}, "init='authors' is for mode='sgda_f2', got mode='sgda'"),
        ({"mode": "sgda_f2", "sharpness": 1.0}, "sharpness is for mode='sgda'"),
        ({"rate": 0.0}, "rate must be positive, got 0.0"),
        ({"high_rate": math.nan}, "high_rate must be positive, got nan"),
        ({"sharpness": -1.0}, "sharpness must be positive, got -1.0"),
        ({"decay": -1}, "decay must be >= 0, got -1"),
        ({"m": 4}, "ThresholdTracker needs 0 <= m < k <= n, got m=4, k=4"),
    ],
)
def test_wrong_settings_of_a_tracker_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ThresholdTracker(**{"m": 1, "k": 4, **settings})


def test_names_say_all_settings():
    assert repr(ThresholdTracker(1, 4)) == (
        "ThresholdTracker(m=1, k=4, mode='sgda', rates=(0.1, 0.1), decay=0.5, init='correct', "
        "sharpness=None, burn_in=10)"
    )
