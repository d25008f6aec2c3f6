"""A task never holds one image or one class as two; whole numbers of every library count."""

import numpy as np
import pytest
import torch

from metalearn_tut import MAML, tasks
from metalearn_tut.rank_losses import (
    LogNormalGuidance,
    RankedRange,
    ThresholdTracker,
    WorstMixture,
)
from metalearn_tut.tasks.source import ClassSource

X = np.arange(24.0).reshape(12, 2)


def source(*rows):
    return ClassSource(X, rows, tuple("abcdef"[: len(rows)]))


# Rows and classes


@pytest.mark.parametrize(
    "rows, said",
    [
        (([0, 1], [1, 2]), "must differ, or support and query set share an image: row 1 occurs 2"),
        (([0, 0], [1, 2]), "row 0 occurs 2 times"),
        (([0, 1], [2, -1]), r"must be in 0\.\.11, its images, got -1"),
        (([0, 1], [2, 12]), r"must be in 0\.\.11, its images, got 12"),
        (([0.0, 1.0], [2, 3]), "must be integers"),
        (([True, False], [False, True]), "must be integers"),
        (([[0, 1]], [2, 3]), r"must be integers \[n\]"),
    ],
)
def test_rows_are_positions_of_images_each_once(rows, said):
    with pytest.raises(ValueError, match=f"rows of arrays .*{said}|rows of arrays {said}"):
        source(*map(np.array, rows))


@pytest.mark.parametrize("kind", [list, tuple, np.uint8, np.int32])
def test_rows_of_any_kind_are_the_same_tasks(kind):
    parts = [range(0, 4), range(4, 9), range(9, 12)]
    made = [np.array(p, kind) if kind in (np.uint8, np.int32) else kind(p) for p in parts]
    found, expected = (source(*r).sampler(2, 1, 2) for r in (made, map(np.array, parts)))
    for i in range(5):
        assert torch.equal(found[i].query_x, expected[i].query_x)
    assert found.source.fingerprint() == expected.source.fingerprint()


def test_classes_are_chosen_by_different_positions():
    six = tasks.from_arrays(X, np.arange(12) % 6)
    assert six.select([5, np.int64(0), torch.tensor(2)]).class_names == ("5", "0", "2")
    mask = [True, False, True, False, False, False]
    for wrong in ([0, 0], [6], [-1], ["0"], [1.0], mask, np.array(mask)):
        with pytest.raises(ValueError, match=r"different positions in 0\.\.5, the classes of arr"):
            six.select(wrong)
    images = tasks.from_arrays(np.zeros((12, 1, 3, 3)), np.arange(12) % 6).rotated()
    with pytest.raises(ValueError, match="of arrays before rotation, got "):
        images.select([6])


# What has no value


@pytest.mark.parametrize(
    "x, y, said",
    [
        (np.ma.masked_array(X, X > 20), np.arange(12) % 2, "x must be an array: it is masked"),
        (X, np.ma.masked_array(np.arange(12) % 3, np.arange(12) > 9), "y must be an array: it is"),
        (X, np.array(["NaT", "2021-01-01"] * 6, "datetime64[D]"), "y must not be NaN or NaT"),
        (X, np.array(["NaT", 1] * 6, "timedelta64[D]"), "y must not be NaN or NaT"),
        (X, np.array([np.nan, 1j] * 6), "y must not be NaN or NaT"),
    ],
)
def test_what_is_missing_is_no_value(x, y, said):
    with pytest.raises(ValueError, match=said):
        tasks.from_arrays(x, y)


def test_a_masked_array_of_which_nothing_is_masked_is_an_array():
    plain, masked = (
        tasks.from_arrays(x, np.arange(12) % 2) for x in (X, np.ma.masked_array(X, X > 99))
    )
    assert plain.fingerprint() == masked.fingerprint()


# Whole numbers and rates of every library

LOSSES = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
def test_ranks_are_whole_numbers_of_any_library(integer):
    one, three, two = integer(1), integer(3), integer(2)
    for make in (
        lambda one, two, three: RankedRange(one, three, burn_in=two),
        lambda one, two, three: ThresholdTracker(one, three, burn_in=two),
        lambda one, two, three: LogNormalGuidance(every=two, burn_in=one),
        lambda one, two, three: WorstMixture(two * three, burn_in=one),
    ):
        found, expected = make(one, two, three), make(1, 2, 3)
        for _ in range(4):
            assert torch.equal(found(LOSSES), expected(LOSSES))
        assert repr(found) == repr(expected)
        assert found.state_dict() == expected.state_dict()


@pytest.mark.parametrize("wrong", [True, 1.0, "1", None, np.True_])
def test_what_is_no_whole_number_is_no_rank(wrong):
    for work in (
        lambda: RankedRange(wrong, 3),
        lambda: RankedRange(0, wrong),
        lambda: RankedRange(0, 3, burn_in=wrong),
        lambda: LogNormalGuidance(every=wrong),
    ):
        with pytest.raises(ValueError, match=f"must be an integer.* got {wrong!r}"):
            work()


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_learned_rates_begin_at_a_number_of_any_library(rate):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    learner = MAML(network, rate, rate_mode="shared")
    (first,) = learner.learned_rates.values()
    assert first.item() == float(rate) and first.dtype == torch.float32
