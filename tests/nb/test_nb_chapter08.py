"""The checks of chapter 8's exercises accept what is right and refuse what is not."""

import pytest
import torch
from torch import nn

from metalearn_tut.nb.chapters import chapter08

# Exercise 1: a front of several costs


def pairs(costs, accuracy, no_worse=torch.le):
    """Row by row who is nowhere worse, and who is somewhere better."""
    values = torch.cat([costs, -accuracy[:, None]], 1)
    judge, judged = values[None], values[:, None]
    return no_worse(judge, judged).all(2), (judge < judged).any(2)


def all_at_once(costs, accuracy):
    nowhere_worse, better = pairs(costs, accuracy)
    return ~(nowhere_worse & better).any(1)


def one_by_one(costs, accuracy):
    rows = [(*c, -a) for c, a in zip(costs.tolist(), accuracy.tolist(), strict=True)]
    dominated = [
        any(all(x <= y for x, y in zip(o, row, strict=True)) and o != row for o in rows)
        for row in rows
    ]
    return torch.tensor([not d for d in dominated])


# Exercise 2: prototypes with a scale


def linear(weight, bias):
    head = nn.Linear(weight.shape[1], weight.shape[0]).double()
    head.weight.data, head.bias.data = weight, bias
    return head


def scaled(centers, scale):
    return linear(2 * scale * centers, -(scale * centers**2).sum(1))


def shifted(centers, scale):
    """The same number added to all logits changes no probability."""
    return linear(2 * scale * centers, 3 - centers**2 @ scale)


RIGHT = {
    "front": [all_at_once, one_by_one],
    "head": [scaled, shifted],
}
WRONG = {
    "front": [
        lambda costs, accuracy: ~pairs(costs, accuracy)[0].any(1),  # nobody: each is like itself
        lambda costs, accuracy: ~pairs(costs, accuracy, torch.lt)[0].any(1),
        lambda costs, accuracy: all_at_once(costs[:, :1], accuracy),
        lambda costs, accuracy: all_at_once(costs, -accuracy),
        lambda costs, accuracy: accuracy == accuracy.max(),
        lambda costs, accuracy: all_at_once(costs, accuracy)[:-1],
    ],
    "head": [
        lambda centers, scale: linear(2 * centers, -centers.square().sum(1)),
        lambda centers, scale: linear(scale * centers, -(scale * centers**2).sum(1)),
        lambda centers, scale: linear(2 * scale * centers, (scale * centers**2).sum(1)),
        lambda centers, scale: linear(2 * scale * centers, -((scale * centers) ** 2).sum(1)),
        lambda centers, scale: linear(2 * scale * centers, torch.zeros(len(centers)).double()),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter08, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, answers in WRONG.items() for n in range(len(answers))]
)
def test_wrong_answers_are_refused(name, number):
    with pytest.raises(AssertionError, match=rf"^{name} of "):
        getattr(chapter08, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter08, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
