"""The checks of chapter 4's exercises accept what is right and refuse what is not."""

import pytest
import torch

from metalearn_tut.nb.chapters import chapter04

# Exercise 1: two weights


def by_formula(w1, w2, c):
    return w1**2 * (1 - c**2), w2 + c * w1


def by_projection(w1, w2, c):
    """Inputs as vectors in the plane: what is left of the first beside the second is the cost."""
    first = torch.tensor([c, (1 - c**2) ** 0.5], dtype=torch.float64)
    second = torch.tensor([1.0, 0.0], dtype=torch.float64)
    shift = w1 * first @ second
    return (w1 * first - shift * second).square().sum(), w2 + shift


# Exercise 2: who gives how much


def by_ranks(scores, share, spare):
    sizes = [s.numel() for s in scores]
    giving = sum(n for i, n in enumerate(sizes) if i not in spare)
    masks = []
    for i, s in enumerate(scores):
        count = 0 if i in spare else int(share * sum(sizes) / giving * s.numel())
        masks.append(s.flatten().argsort().argsort().view(s.shape) >= count)
    return masks


def one_at_a_time(scores, share, spare):
    masks = [torch.ones_like(s) for s in scores]
    total, giving = (
        sum(s.numel() for i, s in enumerate(scores) if i not in without) for without in ([], spare)
    )
    for i, s in enumerate(scores):
        if i not in spare:
            for place in s.flatten().argsort()[: int(s.numel() * share * total / giving)]:
                masks[i].view(-1)[place] = 0
    return masks


def only_their_own_share(scores, share, spare):
    """The spared layers' part is removed nowhere."""
    counts = [0 if i in spare else int(share * s.numel()) for i, s in enumerate(scores)]
    return with_counts(scores, counts)


def with_counts(scores, counts):
    pairs = zip(scores, counts, strict=True)
    return [s.flatten().argsort().argsort().view(s.shape) >= n for s, n in pairs]


def in_one_ranking(scores, share, spare):
    free = torch.cat([s.flatten() for i, s in enumerate(scores) if i not in spare])
    count = int(share * sum(s.numel() for s in scores))
    bar = free.sort().values[count]
    return [torch.ones_like(s) if i in spare else s >= bar for i, s in enumerate(scores)]


RIGHT = {
    "pair": [by_formula, by_projection],
    "masks": [by_ranks, one_at_a_time],
}
WRONG = {
    "pair": [
        lambda w1, w2, c: (w1**2, w2 + c * w1),  # without compensation
        lambda w1, w2, c: (w1**2 * (1 - c**2), w2),
        lambda w1, w2, c: (w1**2 * (1 - c**2), w2 - c * w1),
        lambda w1, w2, c: (w1**2 * (1 - c), w2 + c * w1),
        lambda w1, w2, c: (w1**2 * (1 - c**2) / 2, w2 + c * w1),  # the factor that OBS drops
        lambda w1, w2, c: (w2**2 * (1 - c**2), w1 + c * w2),  # the other weight
    ],
    "masks": [
        only_their_own_share,
        in_one_ranking,
        lambda scores, share, spare: by_ranks(scores, share, []),
        lambda scores, share, spare: by_ranks([-s for s in scores], share, spare),
        lambda scores, share, spare: [~m.bool() for m in by_ranks(scores, share, spare)],
        lambda scores, share, spare: by_ranks(scores, share, spare)[:1],
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter04, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, answers in WRONG.items() for n in range(len(answers))]
)
def test_wrong_answers_are_refused(name, number):
    with pytest.raises(AssertionError, match=r"^(cost|the new|new weights|error|mask)"):
        getattr(chapter04, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter04, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
