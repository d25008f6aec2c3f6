"""Classes whose color channels have changed places."""

from collections import Counter
from itertools import permutations

import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.tasks.emoji.recoloring import Recolored

PLAIN = tasks.emoji("test").sampler(ways=5, shots=1, queries=4)


def orders(plain, recolored):
    """Of each class the orders of channels that turn its plain images into the new ones."""
    found = []
    for c in range(5):
        old = torch.cat([plain.support_x[plain.support_y == c], plain.query_x[plain.query_y == c]])
        new = torch.cat(
            [recolored.support_x[plain.support_y == c], recolored.query_x[plain.query_y == c]]
        )
        found.append([o for o in permutations(range(3)) if torch.equal(old[:, list(o)], new)])
    return found


def test_each_class_has_one_order_of_its_channels_in_support_and_query_set():
    sampler = Recolored(PLAIN, rate=1.0)
    seen = Counter()
    for i in range(60):
        plain, task = PLAIN[i], sampler[i]
        assert torch.equal(task.query_y, plain.query_y)
        assert task.tags == plain.tags
        for fitting in orders(plain, task):
            assert fitting
            if len(fitting) == 1:
                seen[fitting[0]] += 1
    assert len(seen) == 6
    assert min(seen.values()) > sum(seen.values()) / 12


def test_the_rate_is_the_share_of_classes_that_are_drawn():
    sampler = Recolored(PLAIN, rate=0.3, seed=2)
    same = [(0, 1, 2) in fitting for i in range(200) for fitting in orders(PLAIN[i], sampler[i])]
    expected = 0.7 + 0.3 / 6  # and a few gray things, which every order leaves alone
    assert expected - 0.03 < sum(same) / len(same) < expected + 0.05


def test_rate_0_changes_nothing_and_task_i_is_always_the_same():
    assert torch.equal(Recolored(PLAIN, rate=0.0)[3].query_x, PLAIN[3].query_x)
    sampler = Recolored(PLAIN, rate=0.5, seed=1)
    assert torch.equal(sampler[2**63].query_x, sampler[2**63].query_x)
    assert any(
        not torch.equal(sampler[i].query_x, Recolored(PLAIN, 0.5, seed=3)[i].query_x)
        for i in range(5)
    )
    assert sampler.settings() != Recolored(PLAIN, rate=0.4, seed=1).settings()


def test_what_cannot_be_recolored_is_refused():
    with pytest.raises(ValueError, match=r"rate must be a probability in 0\.\.1, got 1\.5"):
        Recolored(PLAIN, rate=1.5)
    gray = tasks.from_arrays(torch.zeros(20, 1, 8, 8), torch.arange(20) % 5).sampler(5, 1, 2)
    with pytest.raises(
        ValueError, match=r"needs images \[n, 3, H, W\], the task has \[5, 1, 8, 8\]"
    ):
        Recolored(gray, rate=1.0)[0]
