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


# Exercise 2: shares


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
    "sound_dropped": [by_distribution, by_balance],
    "share_weights": [by_overlap, by_fine_copies],
}
WRONG = {
    "sound_dropped": [
        lambda T, m, rate: m - rate * T,  # Jensen: the mean of the positive part is larger
        lambda T, m, rate: max(m - rate * T, 0.0),
        lambda T, m, rate: by_distribution(T, m, rate) / m,  # a share
        lambda T, m, rate: by_distribution(T, m, 1 - rate),
        lambda T, m, rate: by_distribution(T, m, rate) - m + rate * T,  # the broken ones
        lambda T, m, rate: float("nan"),
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
    with pytest.raises(AssertionError, match=r"off by|of losses"):
        getattr(chapter03, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter03, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
