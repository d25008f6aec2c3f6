"""Sources of classes: the reader's own arrays, splits, groups and rotations."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from metalearn_tut import tasks


def numbered(classes=20, per_class=10, **kwargs):
    """A source whose examples are their own row numbers: row r belongs to class r // per_class."""
    n = classes * per_class
    return tasks.from_arrays(
        np.arange(n, dtype=np.float64).reshape(n, 1), np.arange(n) // per_class, **kwargs
    )


def test_from_arrays_takes_tensors_and_any_sortable_label():
    a = tasks.from_arrays(torch.arange(6.0).reshape(6, 1), ["b", "a", "b", "a", "c", "c"])
    assert a.class_names == ("a", "b", "c") and a.images.dtype == np.float32
    assert [rows.tolist() for rows in a.rows] == [[1, 3], [0, 2], [4, 5]]
    b = tasks.from_arrays([[0], [1], [2]], torch.tensor([5, -1, 5]))
    assert b.class_names == ("-1", "5") and b.count(1) == 2


def test_as_supervised_lists_every_image_once_with_its_class():
    source = numbered(classes=4, per_class=3)
    images, labels, names = source.as_supervised()
    assert sorted(images.flatten().tolist()) == list(range(12))
    assert (images.flatten() // 3 == labels).all() and names == ("0", "1", "2", "3")


def test_split_parts_share_no_class_and_lose_none():
    source = numbered(classes=23, groups=[f"g{c % 3}" for c in range(23)])
    train, validation, test = parts = source.split(0.5, 0.25, seed=3)
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == sorted(source.class_names) and len(set(names)) == 23
    assert [p.n_classes for p in parts] == [12, 5, 6]
    assert all(p.groups[i] == f"g{int(c) % 3}" for p in parts for i, c in enumerate(p.class_names))
    assert source.split(0.5, 0.25, seed=3)[0].class_names == train.class_names
    assert source.split(0.5, 0.25, seed=4)[0].class_names != train.class_names
    assert "validation" in repr(validation) and "test" in repr(test)


def test_rotated_counts_each_quarter_turn_as_a_class():
    x = np.random.default_rng(1).integers(0, 256, (5, 1, 5, 5), dtype=np.uint8)
    source = tasks.from_arrays(x, [0, 0, 1, 1, 1]).rotated()
    assert source.n_classes == 8 and [source.count(c) for c in range(8)] == [2, 3] * 4
    for c in range(8):
        turn, base = divmod(c, 2)
        for row in range(2):
            by_hand = x[2 * base + row, 0].tolist()
            for _ in range(turn):  # a quarter turn counterclockwise
                by_hand = [list(column) for column in zip(*by_hand, strict=True)][::-1]
            assert source.images_of(c, [row])[0, 0].tolist() == by_hand
    task = source.sampler(8, 1, 1)[0]
    pairs = set(zip(task.tags["classes"], task.tags["turns"], strict=True))
    assert pairs == {(name, turn) for name in ("0", "1") for turn in range(4)}


def test_rotated_classes_keep_support_and_query_apart():
    x = np.random.default_rng(2).integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
    sampler = tasks.from_arrays(x, np.arange(12) // 4).rotated().sampler(12, 2, 2)
    for i in range(20):
        task = sampler[i]
        both = torch.cat([task.support_x, task.query_x]).flatten(1)
        assert len(torch.unique(both, dim=0)) == 48


def test_within_group_draws_all_classes_from_one_group_and_uses_every_large_one():
    groups = ["a"] * 8 + ["b"] * 9 + ["small"] * 3
    source = replace(numbered(groups=groups), within_group=True)
    sampler = source.sampler(5, 1, 1, seed=1)
    seen = Counter()
    for i in range(300):
        of_task = set(sampler[i].tags["groups"])
        assert len(of_task) == 1
        seen |= Counter(of_task)
    assert set(seen) == {"a", "b"}


def test_within_group_never_mixes_turns():
    x = np.zeros((12, 1, 3, 3), np.uint8)
    source = tasks.from_arrays(x, np.arange(12) // 2, groups=["a"] * 3 + ["b"] * 3).rotated()
    sampler = replace(source, within_group=True).sampler(3, 1, 1)
    turns = [set(sampler[i].tags["turns"]) for i in range(60)]
    assert all(len(t) == 1 for t in turns) and set().union(*turns) == {0, 1, 2, 3}


def test_golden_split():
    parts = numbered(classes=10).split(0.6, 0.2, seed=1)
    assert ["".join(part.class_names) for part in parts] == ["704382", "56", "91"]


# Bad input


def test_the_class_with_too_few_images_is_named():
    source = tasks.from_arrays(np.zeros((7, 2)), ["cat"] * 4 + ["dog"] * 3)
    with pytest.raises(ValueError, match=r"4 images per class, but class 'dog' of arrays has 3"):
        source.sampler(2, 1, 3)


def test_within_group_needs_a_group_that_is_large_enough():
    with pytest.raises(ValueError, match="ways=4: no group of arrays has that many classes"):
        replace(numbered(classes=6, groups=["a"] * 3 + ["b"] * 3), within_group=True).sampler(
            4, 1, 1
        )
    with pytest.raises(ValueError, match="within_group=True needs groups, and arrays has none"):
        replace(numbered(), within_group=True)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), [0, 1], r"got shapes \(3, 2\) and \(2,\)"),
        (np.zeros((3, 2)), np.zeros((3, 1)), r"got shapes \(3, 2\) and \(3, 1\)"),
        (np.zeros((0, 2)), [], r"M >= 1, got shapes \(0, 2\) and \(0,\)"),
        (np.float64(1), [0], r"got shapes \(\) and \(1,\)"),
        (np.array([[0.0], [np.nan], [1.0]]), [0, 1, 0], "row 1 has NaN or inf"),
        (torch.tensor([[0.0], [1.0], [torch.inf]]), [0, 1, 0], "row 2 has NaN or inf"),
    ],
)
def test_arrays_that_are_no_labelled_examples(x, y, message):
    with pytest.raises(ValueError, match=message):
        tasks.from_arrays(x, y)


def test_groups_must_name_one_per_class():
    with pytest.raises(ValueError, match=r"one group per class \(20\), got 2"):
        numbered(groups=["a", "b"])
    with pytest.raises(ValueError, match="2 classes, but 1 names and 0 groups"):
        tasks.ClassSource(np.zeros((2, 1)), (np.array([0]), np.array([1])), ("a",))


def test_rotated_needs_square_images():
    for shape in [(4, 3), (4, 1, 3, 5)]:
        with pytest.raises(ValueError, match=r"rotated\(\) needs square images"):
            tasks.from_arrays(np.zeros(shape), [0, 0, 1, 1]).rotated()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.8, 0.2), "sum to less than 1, got 0.8 and 0.2"),
        ((0.0, 0.5), "must be positive"),
        ((0.5, 0.01), "20 classes, too few for three splits"),
    ],
)
def test_splits_that_leave_a_part_empty(shares, message):
    with pytest.raises(ValueError, match=message):
        numbered().split(*shares)
    with pytest.raises(ValueError, match="seed must be"):
        numbered().split(seed=-1)
