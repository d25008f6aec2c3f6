"""The checks of chapter 6's exercises accept what is right and refuse what is not."""

import pytest
import torch

from metalearn_tut.nb.chapters import chapter06

# Exercise 1: the length of the step


def by_line(top, w, T, ways):
    return 1 + w * T * (ways * top - 1) / (ways - 1)


def by_entry(top, w, T, ways):
    """From the entry of the right class alone."""
    u = 1 / ways
    return ((1 - u) + w * T * (top - u)) / (1 - u)


# Exercise 2: the outer slope


def by_factor(theta, X, y, t, X_q, y_q, alpha, w):
    H = X.T @ X / len(X)
    end = theta - alpha * X.T @ ((X @ theta - y) + w * (X @ theta - t)) / len(X)
    slope = X_q.T @ (X_q @ end - y_q) / len(X_q)
    return slope - alpha * (1 + w) * H @ slope


def by_differences(theta, X, y, t, X_q, y_q, alpha, w):
    def loss(start):
        end = start - alpha * X.T @ ((X @ start - y) + w * (X @ start - t)) / len(X)
        return (X_q @ end - y_q).square().mean() / 2

    eye = torch.eye(len(theta), dtype=theta.dtype)
    return torch.stack([(loss(theta + e) - loss(theta - e)) / 2 for e in eye])  # quadratic: exact


def first_order(theta, X, y, t, X_q, y_q, alpha, w):
    end = theta - alpha * X.T @ ((X @ theta - y) + w * (X @ theta - t)) / len(X)
    return X_q.T @ (X_q @ end - y_q) / len(X_q)


def without_guide(theta, X, y, t, X_q, y_q, alpha, w):
    return by_factor(theta, X, y, t, X_q, y_q, alpha, 0.0)


def curvature_of_the_label_alone(theta, X, y, t, X_q, y_q, alpha, w):
    slope = first_order(theta, X, y, t, X_q, y_q, alpha, w)
    return slope - alpha * X.T @ (X @ slope) / len(X)


RIGHT = {
    "factor": [by_line, by_entry],
    "outer": [by_factor, by_differences],
}
WRONG = {
    "factor": [
        lambda top, w, T, ways: 1 + w * T,
        lambda top, w, T, ways: 1 + w * T * top,
        lambda top, w, T, ways: 1 + w * (ways * top - 1) / (ways - 1),
        lambda top, w, T, ways: by_line(top, w, T, ways) / (1 + w * T),
        lambda top, w, T, ways: 1 + w * T * abs(ways * top - 1) / (ways - 1),
    ],
    "outer": [
        first_order,
        without_guide,
        curvature_of_the_label_alone,
        lambda *given: -by_factor(*given),
        lambda *given: by_factor(*given)[:1],
        lambda theta, X, y, t, *rest: by_factor(theta, X, t, y, *rest),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_accepted(name, capsys):
    for answer in RIGHT[name]:
        getattr(chapter06, f"check_{name}")(answer)
        assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, answers in WRONG.items() for n in range(len(answers))]
)
def test_wrong_answers_are_refused(name, number):
    with pytest.raises(AssertionError, match=r"^(slope|factor) for"):
        getattr(chapter06, f"check_{name}")(WRONG[name][number])


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_no_error(name, capsys):
    def mine(*args):
        raise NotImplementedError

    getattr(chapter06, f"check_{name}")(mine)
    assert capsys.readouterr().out.endswith(": not attempted yet\n")
