"""Checks of chapter 1's exercises: what a task is, and what an accuracy on tasks may claim."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_tut import tasks
from metalearn_tut.evaluation import evaluate, paired_difference
from metalearn_tut.learners.protonet import distance_logits, prototypes
from metalearn_tut.nb import check, close

__all__ = ["check_features", "check_is_sound", "check_known_share"]

_PER_CLASS = 20


def check_known_share(my_known_share: Callable[[float, int], float]) -> None:
    """Exercise 1.1: the share r of questions known, from accuracy ``a = r + (1 - r) / N``.

    Examples
    --------
    >>> check_known_share(lambda accuracy, ways: (ways * accuracy - 1) / (ways - 1))
    Exercise 1.1: correct
    """

    def verify() -> None:
        for accuracy, ways in ((0.8, 5), (0.2, 5), (1.0, 20), (0.5, 2), (0.625, 4)):
            what = f"the share known at accuracy {accuracy} in {ways} ways"
            close(my_known_share(accuracy, ways), (ways * accuracy - 1) / (ways - 1), what)

    check("Exercise 1.1", verify)


def check_is_sound(my_is_sound: Callable[[Tensor, Tensor, int], bool]) -> None:
    """Exercise 1.2: whether ``support [N, K]`` and ``query [N, Q]`` of image numbers are a task.

    Image i is of class ``i // per_class``. A task is sound if each row (support and query) is
    of one class, the rows' classes differ, and no image comes twice.
    """

    def verify() -> None:
        for name, support, query, sound in _numbered_tasks():
            answer = my_is_sound(support, query, _PER_CLASS)
            if not isinstance(answer, (bool, Tensor)) or bool(answer) != sound:
                right = "sound" if sound else "not sound"
                raise AssertionError(f"{name} is {right}, your answer is {answer!r}")

    check("Exercise 1.2", verify)


def _numbered_tasks() -> list[tuple[str, Tensor, Tensor, bool]]:
    """Tasks of image numbers: some sound, and one of each way to be wrong."""
    first = 20 * torch.tensor([[7], [2], [11]])  # the first image of three classes
    support, query = first + torch.tensor([3, 0]), first + torch.tensor([19, 5, 8])

    def changed(x: Tensor, row: int, column: int, image: int) -> Tensor:
        x = x.clone()
        x[row, column] = image
        return x

    twin = first[[0, 1, 1]]
    return [
        ("a 3-way 2-shot task", support, query, True),
        ("a 3-way 1-shot task", support[:, :1], query, True),
        ("a task of one class", support[:1], query[:1], True),
        ("a task with one class under two labels", twin + first.new_tensor([[0], [1], [2]]),
         twin + first.new_tensor([[5, 6], [7, 8], [9, 10]]), False),
        ("a task with a support image among the queries", support, changed(query, 1, 0, 40), False),
        ("a task with a support image twice", changed(support, 2, 1, 223), query, False),
        ("a task with a query image twice", support, changed(query, 0, 2, 159), False),
        ("a task with a query of another class than its row", support,
         changed(query, 0, 1, 300), False),
        ("a task whose query rows are in another order", support, query[[1, 0, 2]], False),
        ("a task with a support row of two classes", changed(support, 1, 1, 399), query, False),
    ]  # fmt: skip


class _ClassMeans:
    """Nearest class mean of given features, without anything trained."""

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self.features = features

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Callable[[Tensor], Tensor]:
        centers = prototypes(self.features(support_x), support_y)
        return lambda x: distance_logits(self.features(x), centers)


def check_features(my_features: Callable[[Tensor], Tensor]) -> None:
    """Exercise 1.3: features ``uint8 [B, 1, 28, 28]`` to ``[B, D]`` that beat raw pixels.

    Judged by the nearest class mean on 600 tasks of the validation scripts; the 95 % interval
    of the paired difference must lie above 0. Each image must be read alone.
    """

    def verify() -> None:
        sampler = tasks.glyphs("validation").sampler(ways=5, shots=1, queries=5, seed=1)
        images = sampler[0].query_x
        found = my_features(images)
        if found.ndim != 2 or len(found) != len(images) or not found.is_floating_point():
            raise AssertionError(
                f"features must be floating-point [{len(images)}, D], "
                f"got {found.dtype} {list(found.shape)}"
            )
        if not torch.allclose(my_features(images[:1]), found[:1], rtol=1e-4, atol=1e-5):
            raise AssertionError("an image's features change with the images beside it")
        pixels = evaluate(_ClassMeans(lambda x: tasks.as_float(x).flatten(1)), sampler)
        mine = evaluate(_ClassMeans(my_features), sampler)
        mean, half = paired_difference(mine, pixels)
        print(f"your features {mine.mean:.3f}, pixels {pixels.mean:.3f}", end="; ")
        print(f"difference {mean:+.4f} ± {half:.4f}")
        if not mean - half > 0:
            raise AssertionError("the interval of the difference must lie above 0")

    check("Exercise 1.3", verify)
