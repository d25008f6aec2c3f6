"""Partitions: every image has one owner, skew is as asked for, and the seed decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut import tasks
from metalearn_tut.federated import Across, Node, by_classes, by_dirichlet
from metalearn_tut.federated.partition import _dirichlet


def source(classes=6, images=20, groups=None):
    """The pixel says which image it is."""
    x = np.arange(classes * images, dtype=np.float32)[:, None]
    return tasks.from_arrays(x, np.arange(classes * images) % classes, groups=groups)


def owned(node):
    return [
        int(i)
        for c, positions in zip(node.classes, node.positions, strict=True)
        for i in node.source.images_of(c, positions)[:, 0]
    ]


def everyone(partition):
    return sorted((*partition.train, *partition.unseen), key=lambda node: node.number)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**63))
def test_by_classes_is_even_in_classes_and_images(nodes, k, seed):
    found = everyone(by_classes(source(), nodes, k, seed=seed))
    assert [node.number for node in found] == list(range(nodes))
    assert all(len(set(node.classes)) == k for node in found)
    times = np.bincount([c for node in found for c in node.classes], minlength=6)
    assert times.max() - times.min() <= 1
    images = [i for node in found for i in owned(node)]
    assert len(images) == len(set(images)) == 20 * (times > 0).sum()
    for node in found:
        for c, positions in zip(node.classes, node.positions, strict=True):
            assert abs(len(positions) - 20 / times[c]) < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.sampled_from([0.3, 1.0, 100.0]), st.integers(0, 2**63))
def test_by_dirichlet_every_image_has_one_owner(nodes, concentration, seed):
    try:
        found = everyone(by_dirichlet(source(), nodes, concentration, seed=seed))
    except ValueError as error:
        assert "images, fewer than 1: raise concentration" in str(error)
        return
    assert sorted(i for node in found for i in owned(node)) == list(range(120))
    assert all(len(positions) for node in found for positions in node.positions)


@pytest.mark.parametrize("concentration", [0.01, 0.5, 3.0])
def test_dirichlet_has_the_moments_of_its_distribution(concentration):
    n, draws = 5, np.array([_dirichlet(concentration, 5, 0, c) for c in range(4000)])
    np.testing.assert_allclose(draws.sum(1), 1.0)
    variance = (1 / n) * (1 - 1 / n) / (n * concentration + 1)
    assert np.abs(draws.mean(0) - 1 / n).max() < 5 * np.sqrt(variance / 4000)
    np.testing.assert_allclose(draws.var(0).mean(), variance, rtol=0.06)


def test_small_concentrations_give_whole_classes_away():
    assert (_dirichlet(1e-4, 8, 0, 0) == 1.0).sum() == 1


@pytest.mark.parametrize("split", [by_classes, by_dirichlet])
def test_the_seed_decides_and_a_fifth_is_unseen(split):
    def drawn(seed):
        partition = split(source(), 10, 3, seed=seed)
        assert (len(partition.train), len(partition.unseen)) == (8, 2)
        return [(n.number, n.classes, owned(n)) for n in (*partition.train, *partition.unseen)]

    assert drawn(0) == drawn(0) and drawn(0) != drawn(1)
    assert len(split(source(), 10, 3, unseen=1.0).unseen) == 10
    assert len(split(source(), 10, 3, unseen=0.0).train) == 10


def test_unseen_nodes_are_not_always_the_last():
    numbers = {
        split.unseen[0].number for s in range(9) for split in [by_classes(source(), 5, 2, seed=s)]
    }
    assert len(numbers) > 2


def test_classes_of_a_node_come_from_one_group_if_so_asked():
    grouped = source(groups=("Latin", "Greek", "Latin", "Greek", "Latin", "Thai"))
    found = everyone(by_classes(replace(grouped, within_group=True), 8, 2))
    scripts = [{grouped.groups[c] for c in node.classes} for node in found]
    assert all(len(names) == 1 for names in scripts)
    assert {name for names in scripts for name in names} == {"Latin", "Greek"}
    with pytest.raises(ValueError, match="classes_per_node=4: no group of arrays has that many"):
        by_classes(replace(grouped, within_group=True), 8, 4)


def test_labels_are_the_classes_or_count_from_0():
    partition = by_classes(source(), 5, 2, local_labels=True)
    assert partition.ways == 2 and all(n.labels == (0, 1) for n in everyone(partition))
    partition = by_classes(source(), 5, 2)
    assert partition.ways == 6 and all(n.labels == n.classes for n in everyone(partition))


def test_turned_classes_are_classes_too():
    x = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 1, 4, 4).repeat(4, 1, 1, 1)
    turned = tasks.from_arrays(x, torch.arange(12) % 3).rotated()
    node = next(n for n in everyone(by_classes(turned, 6, 2)) if max(n.classes) >= 3)
    task = node.sampler(2, 2)[0]
    which = int(task.support_y.max())
    image = task.support_x[task.support_y == which][0]
    expected = np.rot90(x[which % 3], which // 3, axes=(-2, -1))
    assert np.array_equal(image, expected)


# Tasks of a node


def node(*counts, number=0, local_labels=False):
    starts = [np.arange(count) for count in counts]
    return Node(number, source(), tuple(range(2, 2 + len(counts))), tuple(starts), local_labels)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_support_and_query_are_the_nodes_own_and_share_no_image(support, query, seed, index):
    own = node(9, 2, 5)
    task = own.sampler(support, query, seed)[index]
    images = torch.cat([task.support_x, task.query_x])[:, 0].long()
    assert len(images.unique()) == support + query and set(images.tolist()) <= set(owned(own))
    labels = torch.cat([task.support_y, task.query_y])
    assert labels.dtype == torch.int64 and torch.equal(labels, images % 6)
    counts = task.support_y.bincount(minlength=5)[2:]
    assert counts.sum() == support and (counts >= min(2, support // 3)).all()
    again = own.sampler(support, query, seed)[index]
    assert torch.equal(again.support_x, task.support_x) and torch.equal(again.query_x, task.query_x)


def test_the_support_set_is_as_even_as_can_be_and_the_query_set_as_the_node_is():
    sampler = node(12, 4).sampler(4, 6)
    drawn = [sampler[i] for i in range(400)]
    assert all(task.support_y.tolist() == [2, 2, 3, 3] for task in drawn)
    # 10 of class 2 and 2 of class 3 are left, 6 of them drawn: 5 of class 2 on average
    share = torch.stack([(task.query_y == 2).float().sum() for task in drawn]).mean()
    assert abs(share - 5) < 0.15
    odd = [
        sampler_odd[i].support_y.tolist()
        for sampler_odd in [node(9, 9).sampler(3, 1)]
        for i in range(40)
    ]
    assert {tuple(labels) for labels in odd} == {(2, 2, 3), (2, 3, 3)}
    # every image is drawn as often as any other of its class
    seen = torch.cat([task.query_x[task.query_y == 2] for task in drawn]).unique(return_counts=True)
    assert len(seen[0]) == 12 and seen[1].min() > 120 and seen[1].max() < 215


def test_nodes_and_seeds_and_indices_draw_differently():
    def draw(number, seed, index):
        return tuple(node(20, 20, number=number).sampler(5, 5, seed)[index].query_x[:, 0].tolist())

    assert len({draw(*which) for which in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4


def test_local_labels_and_tags():
    task = node(5, 5, local_labels=True).sampler(4, 4)[3]
    assert task.support_y.tolist() == [0, 0, 1, 1]
    assert task.tags == {"index": 3, "node": "node 0", "classes": ("2", "3")}


def test_across_nodes_in_turn():
    nodes = [node(6, 6, number=i) for i in range(3)]
    sampler = Across(nodes, 2, 2, seed=4)
    for i in (0, 1, 5, 7):
        expected = nodes[i % 3].sampler(2, 2, seed=4)[i // 3]
        assert torch.equal(sampler[i].query_x, expected.query_x)
    assert sampler.batch(0, 3).support_x.shape == (3, 2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: by_classes(source(), 5, 7), "classes_per_node=7, but arrays has 6 classes"),
        (lambda: by_classes(source(), 0, 2), "nodes must be an integer >= 1, got 0"),
        (lambda: by_classes(source(), 5, 2, unseen=1.2), r"unseen must be in 0..1, got 1.2"),
        (lambda: by_classes(source(2, 3), 5, 2), "class '0' of arrays has 3 images for 5 nodes"),
        (lambda: by_dirichlet(source(), 5, 0.0), "concentration must be positive, got 0.0"),
        (
            lambda: by_dirichlet(source(), 30, 0.01),
            r"node \d+ gets 0 images, fewer than 1: raise concentration",
        ),
        (
            lambda: by_dirichlet(source(), 3, 9.0, least=100),
            r"node 0 gets \d+ images, fewer than 100",
        ),
        (
            lambda: node(3, 2).sampler(4, 2),
            r"node 0 has 5 images, fewer than support \+ query = 4 \+ 2",
        ),
        (lambda: node().sampler(1, 1), "node 0 has 0 images"),
        (lambda: node(5).sampler(0, 2), "support must be an integer >= 1, got 0"),
        (lambda: Across([], 1, 1), "nodes must not be empty"),
    ],
)
def test_clear_errors_name_the_node_or_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
