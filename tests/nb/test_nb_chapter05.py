"""The checks of chapter 5's exercises accept what is right and refuse what is not."""

import pytest
import torch

from metalearn_tut.nb.chapters import chapter05


def marks(*rows):
    return lambda: torch.tensor(rows)


UNIT = 2 * 9 * 16**2 * 32**2


def by_formula(n, p):
    total = 442_368 + (3 * n - 2) * UNIT + 2 * 3_538_944 + 640
    return p * UNIT / total, (3 * n - 2) * UNIT / total


def layer_by_layer(n, p):
    widths, sides, costs, plain = [16, 32, 64], [32, 16, 8], [27 * 16 * 32**2, 640], []
    for stage, (c, h) in enumerate(zip(widths, sides, strict=True)):
        for i in range(n):
            first = 9 * c * (c // 2 if stage and not i else c) * h**2
            costs.append(first + 9 * c * c * h**2)
            if not stage or i:
                plain.append(costs[-1])
    return sum(plain[:p]) / sum(costs), sum(plain) / sum(costs)


RIGHT = {
    "marks": [
        marks(*[[0.9, 0.91, 0.91]] * 3, *[[1.0, 0.0, 0.0]] * 2),
        lambda: [[0.5, 0.6, 0.7]] * 4 + [[0.9, 0.1, 0.1]],
    ],
    "saving": [by_formula, layer_by_layer],
}
WRONG = {
    "marks": [
        marks(*[[0.7, 0.1, 0.9]] * 2, *[[0.8, 0.9, 1.0]] * 3),  # the vote without the mean
        marks(*[[0.9, 0.1, 0.2]] * 5),  # the mean without the vote
        marks(*[[0.1, 0.2, 0.3]] * 2, *[[0.9, 0.1, 0.8]] * 2, [0.9, 0.8, 0.1]),  # a tied vote
        marks(*[[0.9, 1.1, 1.1]] * 3, *[[1.2, 0.0, 0.0]] * 2),
        marks(*[[0.9, 0.91]] * 3, *[[1.0, 0.0]] * 2),
        marks(*[[-0.1, 0.0, 0.0]] * 3, *[[1.0, 0.0, 0.0]] * 2),
    ],
    "saving": [
        lambda n, p: (p / (3 * n), (3 * n - 2) / (3 * n)),
        lambda n, p: (by_formula(n, p)[0], by_formula(n, 3 * n)[0]),  # transitions go, too
        lambda n, p: (1 - by_formula(n, p)[0], by_formula(n, p)[1]),
        lambda n, p: tuple(s * 68_862_592 / (68_862_592 + 262_144) for s in by_formula(n, p)),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter05, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, answers in WRONG.items() for n in range(len(answers))]
)
def test_wrong_answers_are_refused(name, number):
    with pytest.raises(AssertionError, match=r"^(marks|votes|means|share|largest)"):
        getattr(chapter05, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter05, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
