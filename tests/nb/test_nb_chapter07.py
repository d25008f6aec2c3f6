"""The checks of chapter 7's exercises accept what is right and refuse what is not."""

import pytest
import torch

from metalearn_tut import gating
from metalearn_tut.gating import ChannelGatedConv4
from metalearn_tut.models import Conv4
from metalearn_tut.nb.chapters import chapter07

# Exercise 1: the end of the rounds


def by_formula(a, h, sizes, steps, alpha, beta):
    pulls = sizes * (1 - (1 - beta * h * (1 - alpha * h) ** 2) ** steps)
    return (pulls * a).sum() / pulls.sum()


def by_solving(a, h, sizes, steps, alpha, beta):
    """A round is linear in where it starts: two rounds say where it ends."""
    r = (1 - beta * h * (1 - alpha * h) ** 2) ** steps
    first, second = (((sizes * (a + r * (s - a))).sum() / sizes.sum()) for s in (0.0, 1.0))
    return first / (1 - (second - first))


def with_formula(change):
    """The formula with other arguments."""

    def answer(a, h, sizes, steps, alpha, beta):
        return by_formula(*change(a, h, sizes, steps, alpha, beta))

    return answer


# Exercise 2: what open filters cost


def layer_by_layer(masks, sides, channels, hidden):
    total = torch.zeros(len(masks[0]), dtype=torch.float64)
    reads, inputs = torch.full_like(total, channels), channels
    for mask, side in zip(masks, sides, strict=True):
        opens = mask.sum(1)
        total += 9 * side**2 * reads * opens + hidden * (inputs + mask.shape[1])
        reads, inputs = opens, mask.shape[1]
    return total


def image_by_image(masks, sides, channels, hidden):
    found = []
    for rows in zip(*masks, strict=True):
        opens = [channels, *(int(row.sum()) for row in rows)]
        sizes = [channels, *(len(row) for row in rows)]
        layers = range(len(rows))
        convs = sum(9 * sides[i] ** 2 * opens[i] * opens[i + 1] for i in layers)
        found.append(convs + sum(hidden * (sizes[i] + sizes[i + 1]) for i in layers))
    return torch.tensor(found)


def inputs_all_open(masks, sides, channels, hidden):
    total, reads = 0, channels
    for mask, side in zip(masks, sides, strict=True):
        total = total + 9 * side**2 * reads * mask.sum(1) + hidden * (reads + mask.shape[1])
        reads = mask.shape[1]
    return total


RIGHT = {
    "end": [by_formula, by_solving],
    "work": [layer_by_layer, image_by_image],
}
WRONG = {
    "end": [
        lambda a, h, sizes, *rest: (sizes * a).sum() / sizes.sum(),
        lambda a, h, sizes, *rest: a.mean(),
        with_formula(
            lambda a, h, sizes, steps, *rest: (a, h, torch.ones_like(sizes), steps, *rest)
        ),
        with_formula(lambda a, h, sizes, steps, alpha, beta: (a, h, sizes, steps, 0.0, beta)),
        with_formula(lambda a, h, sizes, steps, alpha, beta: (a, h, sizes, 1, alpha, beta)),
        lambda *given: by_formula(*given)[None],
    ],
    "work": [
        inputs_all_open,
        lambda *given: layer_by_layer(*given)[:1],
        lambda masks, sides, channels, hidden: layer_by_layer(masks, sides, channels, 0),
        lambda masks, sides, channels, hidden: layer_by_layer(masks, sides, channels, hidden) / 9,
        lambda masks, *rest: layer_by_layer([m.mean(0).expand_as(m) for m in masks], *rest),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter07, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, answers in WRONG.items() for n in range(len(answers))]
)
def test_wrong_answers_are_refused(name, number):
    with pytest.raises(AssertionError, match=r"^(end of rounds|multiplications) "):
        getattr(chapter07, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter07, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")


def test_what_open_filters_cost_is_what_the_package_counts():
    """But for the last layer, which has no gate."""
    torch.manual_seed(0)
    network = ChannelGatedConv4(Conv4(1, ways=5, width=8), hidden=3)
    masks = [torch.rand(6, 8).round() for _ in range(4)]
    found = layer_by_layer([mask.double() for mask in masks], (28, 14, 7, 3), 1, 3)
    head = masks[-1].sum(1) * 5
    assert (found + head).tolist() == gating.active_macs(network, masks, (1, 28, 28)).tolist()
