"""Who has which images: a data set dealt out to nodes, so that each sees its own classes."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from metalearn_tut.checks import check_count, check_seed
from metalearn_tut.federated.nodes import Node
from metalearn_tut.tasks.sampler import distinct, raw_draws
from metalearn_tut.tasks.source import ClassSource

_CLASSES, _IMAGES, _SHARES, _UNSEEN = range(1, 5)  # streams of random numbers, one a purpose


class Partition(NamedTuple):
    """Nodes that train together, and nodes that join when training is over."""

    train: tuple[Node, ...]
    unseen: tuple[Node, ...]

    @property
    def ways(self) -> int:
        """Outputs that a network for all nodes needs."""
        return 1 + max(max(node.labels) for node in (*self.train, *self.unseen))


def by_classes(
    source: ClassSource,
    nodes: int,
    classes_per_node: int,
    *,
    unseen: float = 0.2,
    seed: int = 0,
    local_labels: bool = False,
) -> Partition:
    """Each node gets images of a few classes.

    Classes go round: the next node gets those that the fewest nodes have, at random among
    equals. The images of a class are shared out evenly and at random among the nodes that have
    it; no image has two owners.

    Parameters
    ----------
    source : ClassSource
        With ``within_group=True`` the classes of a node are of one group (one script).
    nodes, classes_per_node : int
    unseen : float, default 0.2
        Share of the nodes that do not train, 0..1.
    seed : int, default 0
        Who gets what, and who is unseen.
    local_labels : bool, default False
        Labels 0..classes_per_node-1 on every node, in place of the source's class numbers.

    Raises
    ------
    ValueError
        If there are not that many classes, or a class has fewer images than nodes that are to
        share it, naming it; or for a number out of range.

    Examples
    --------
    >>> import torch
    >>> from metalearn_tut import tasks
    >>> source = tasks.from_arrays(torch.rand(60, 2), torch.arange(60) % 6)
    >>> train, unseen = by_classes(source, nodes=15, classes_per_node=2)
    >>> len(train), len(unseen), train[0].size
    (12, 3, 4)
    """
    check_count(nodes=nodes, classes_per_node=classes_per_node)
    check_seed(seed)
    if classes_per_node > source.n_classes:
        raise ValueError(
            f"classes_per_node={classes_per_node}, but {source.name} has {source.n_classes} classes"
        )
    pools = [list(pool) for pool in source.class_pools(classes_per_node)]
    if not pools:
        raise ValueError(
            f"classes_per_node={classes_per_node}: no group of {source.name} has that many classes"
        )
    given = _dealt_classes(pools, source.n_classes, nodes, classes_per_node, seed)
    parts: list[dict[int, np.ndarray]] = [{} for _ in range(nodes)]
    for c in range(source.n_classes):
        owners = [i for i, classes in enumerate(given) if c in classes]
        if len(owners) > source.count(c):
            name = source.class_names[c % len(source.rows)]
            raise ValueError(
                f"class {name!r} of {source.name} has {source.count(c)} images "
                f"for {len(owners)} nodes: fewer nodes, or fewer classes_per_node"
            )
        for i, share in zip(owners, _split(source, c, [1.0] * len(owners), seed), strict=True):
            parts[i][c] = share
    return _partition(source, parts, unseen, seed, local_labels)


def by_dirichlet(
    source: ClassSource,
    nodes: int,
    concentration: float,
    *,
    unseen: float = 0.2,
    seed: int = 0,
    least: int = 1,
) -> Partition:
    """The images of each class are shared out by random proportions.

    The shares of the nodes in a class are drawn from a symmetric Dirichlet distribution: the
    smaller its ``concentration``, the fewer nodes have most of the class, and the more nodes
    differ. Every image has one owner.

    Parameters
    ----------
    source : ClassSource
    nodes : int
    concentration : float
        > 0; 0.1 and 0.5 are usual for strong and mild skew.
    unseen, seed
        As for :func:`by_classes`.
    least : int, default 1
        Images that every node must get.

    Raises
    ------
    ValueError
        If a node gets fewer than ``least`` images, naming it; or for a number out of range.

    References
    ----------
    Hsu, Qi and Brown, *Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification*, 2019.

    Examples
    --------
    >>> import torch
    >>> from metalearn_tut import tasks
    >>> source = tasks.from_arrays(torch.rand(60, 2), torch.arange(60) % 6)
    >>> train, unseen = by_dirichlet(source, nodes=5, concentration=10.0)
    >>> sum(node.size for node in (*train, *unseen))
    60
    """
    check_count(nodes=nodes, least=least)
    check_seed(seed)
    if not 0 < concentration < inf:
        raise ValueError(f"concentration must be positive, got {concentration}")
    if concentration < 1e-6:  # shares of a smaller one cannot be told from 0 and 1
        raise ValueError(f"concentration must be at least 1e-6, got {concentration}")
    parts: list[dict[int, np.ndarray]] = [{} for _ in range(nodes)]
    for c in range(source.n_classes):
        shares = _dirichlet(concentration, nodes, seed, c)
        for part, rows in zip(parts, _split(source, c, shares, seed), strict=True):
            if len(rows):
                part[c] = rows
    for i, part in enumerate(parts):
        if (images := sum(map(len, part.values()))) < least:
            raise ValueError(
                f"node {i} gets {images} images, fewer than {least}: raise concentration, or "
                "take fewer nodes, another seed, or more images"
            )
    return _partition(source, parts, unseen, seed, False)


def _dealt_classes(
    pools: Sequence[Sequence[int]], n_classes: int, nodes: int, k: int, seed: int
) -> list[set[int]]:
    """k classes for each node, those given least so far first, at random among equals."""
    times, given = [0] * n_classes, []
    for node in range(nodes):
        draws = raw_draws(seed, node, len(pools) + n_classes, _CLASSES)
        used = [sum(times[c] for c in pool) / len(pool) for pool in pools]
        pool = pools[min(range(len(pools)), key=lambda i: (used[i], draws[i]))]
        chosen = sorted(pool, key=lambda c: (times[c], draws[len(pools) + c]))[:k]
        for c in chosen:
            times[c] += 1
        given.append(set(chosen))
    return given


def _split(source: ClassSource, c: int, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Positions in class c, shuffled and cut in proportion to the shares."""
    n = source.count(c)
    order = np.array(distinct(raw_draws(seed, c, n, _IMAGES), n), dtype=np.int64)
    ends = np.cumsum(shares) / sum(shares) if len(shares) else np.empty(0)
    return np.split(order, np.rint(n * ends[:-1]).astype(np.int64)) if len(shares) else []


def _dirichlet(concentration: float, n: int, seed: int, c: int) -> np.ndarray:
    """A draw ``[n]`` of the symmetric Dirichlet distribution.

    Gamma variables by ``Gamma(a) = Gamma(a + 1) · U^(1/a)`` and in logarithms: for small
    concentrations they would all be zero. RandomState, because its algorithms do not change.
    """
    key = np.array([seed, c], dtype=np.uint64)
    draw = np.random.RandomState(np.random.Philox(key=key, counter=[0, 0, 0, _SHARES]))
    logs = np.log(draw.standard_gamma(concentration + 1, n))
    logs += np.log1p(-draw.random_sample(n)) / concentration
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _partition(
    source: ClassSource,
    parts: Sequence[dict[int, np.ndarray]],
    unseen: float,
    seed: int,
    local_labels: bool,
) -> Partition:
    """Nodes from their images; some of them are set apart."""
    if not 0 <= unseen <= 1:
        raise ValueError(f"unseen must be in 0..1, got {unseen}")
    nodes = [
        Node(i, source, tuple(part), tuple(part.values()), local_labels)
        for i, part in enumerate(parts)
    ]
    n = len(nodes)
    apart = set(distinct(raw_draws(seed, 0, round(unseen * n), _UNSEEN), n))
    train = tuple(node for node in nodes if node.number not in apart)
    return Partition(train, tuple(node for node in nodes if node.number in apart))
