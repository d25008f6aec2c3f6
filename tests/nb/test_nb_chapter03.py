"""The checks of chapter 3's exercises accept what is right and refuse what is not."""

from math import comb

import pytest
import torch

from metalearn_tut.nb.chapters import chapter03
from metalearn_tut.rank_losses import RankedRange

# Exercise 1: the price of caution


def by_distribution(T, m, rate):
    chances = [comb(T, x) * rate**x * (1 - rate) ** (T - x) for x in range(T + 1)]
    return sum(p * max(m - x, 0) for x, p in enumerate(chances))


def by_balance(T, m, rate):
    """Whole tasks dropped minus broken tasks kept is m minus the expected number of broken."""
    kept = sum(comb(T, x) * rate**x * (1 - rate) ** (T - x) * (x - m) for x in range(m + 1, T + 1))
    return torch.tensor(m - rate * T + kept, dtype=torch.float64)


# Exercise 2: one step of the thresholds


def by_slopes(losses, low, high, m, k, rate):
    kept = (low < losses) & (losses <= high)
    eta = rate / len(losses)
    return (
        kept,
        low - eta * (k - (losses > low).sum().item()),
        high + eta * ((losses > high).sum().item() - m),
    )


def one_by_one(losses, low, high, m, k, rate):
    values, n = losses.tolist(), len(losses)
    above = [sum(v > t for v in values) for t in (low, high)]
    kept = torch.tensor([1 if low < v <= high else 0 for v in values])
    return kept, low + rate * (above[0] - k) / n, high + rate * (above[1] - m) / n


def with_thresholds_after(losses, low, high, m, k, rate):
    _, low, high = by_slopes(losses, low, high, m, k, rate)
    return (low < losses) & (losses <= high), low, high


def keeping(kept):
    """The right steps, with another selection."""

    def answer(losses, low, high, *rest):
        return kept(losses, low, high), *by_slopes(losses, low, high, *rest)[1:]

    return answer


def moving(low=1.0, high=1.0):
    """The right selection, with so many times the right steps."""

    def answer(losses, *thresholds_and_rest):
        kept, *ends = by_slopes(losses, *thresholds_and_rest)
        starts = thresholds_and_rest[:2]
        moves = zip(starts, ends, (low, high), strict=True)
        return kept, *(start + times * (end - start) for start, end, times in moves)

    return answer


# Exercise 3: shares


def by_overlap(losses, drop_hardest, drop_easiest):
    n = len(losses)
    ranks = losses.argsort(descending=True, stable=True).argsort()
    start = ranks.double().clamp(min=drop_hardest * n)
    end = (ranks + 1.0).clamp(max=n - drop_easiest * n)
    common = (end - start).clamp(min=0)
    return common / common.sum()


def by_fine_copies(losses, drop_hardest, drop_easiest):
    """Each task 200 times: then all shares are whole numbers."""
    many = losses.repeat_interleave(200)
    aggregate = RankedRange.fractions(drop_hardest=drop_hardest, drop_easiest=drop_easiest)
    return aggregate.select(many).view(-1, 200).sum(1)


def rounded(losses, drop_hardest, drop_easiest):
    aggregate = RankedRange.fractions(drop_hardest=drop_hardest, drop_easiest=drop_easiest)
    return aggregate.select(losses)


RIGHT = {
    "whole_dropped": [by_distribution, by_balance],
    "step": [by_slopes, one_by_one],
    "share_weights": [by_overlap, by_fine_copies],
}
WRONG = {
    "whole_dropped": [
        lambda T, m, rate: m - rate * T,  # Jensen: the mean of the positive part is larger
        lambda T, m, rate: max(m - rate * T, 0.0),
        lambda T, m, rate: by_distribution(T, m, rate) / m,  # a share
        lambda T, m, rate: by_distribution(T, m, 1 - rate),
        lambda T, m, rate: by_distribution(T, m, rate) - m + rate * T,  # the broken ones
        lambda T, m, rate: float("nan"),
    ],
    "step": [
        with_thresholds_after,
        keeping(lambda losses, low, high: (low <= losses) & (losses <= high)),
        keeping(lambda losses, low, high: (low < losses) & (losses < high)),
        keeping(lambda losses, low, high: losses > low),
        moving(low=-1),
        moving(high=-1),
        moving(low=5, high=5),  # not divided by the number of tasks
        moving(high=0),
    ],
    "share_weights": [
        rounded,
        lambda losses, hardest, easiest: by_overlap(losses, easiest, hardest),
        lambda losses, hardest, easiest: by_overlap(losses, hardest, 0.0),
        lambda losses, hardest, easiest: by_overlap(losses, 0.0, easiest),
        lambda losses, hardest, easiest: len(losses) * by_overlap(losses, hardest, easiest),
        lambda losses, hardest, easiest: by_overlap(losses, hardest, easiest).sort().values,
        lambda losses, hardest, easiest: by_overlap(losses.flip(0), hardest, easiest).flip(0),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter03, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, answers in WRONG.items() for n in range(len(answers))]
)
def test_wrong_answers_are_refused(name, number):
    with pytest.raises(AssertionError, match=r"off by|for losses|of losses"):
        getattr(chapter03, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter03, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
