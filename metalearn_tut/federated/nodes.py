"""A node: images that are its own, and the tasks that it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from metalearn_tut.checks import check_count, check_index, check_seed
from metalearn_tut.files.content import content_hash
from metalearn_tut.tasks.sampler import TaskSampler, distinct, raw_draws
from metalearn_tut.tasks.source import ClassSource
from metalearn_tut.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Node:
    """Some images of some classes of a source.

    Parameters
    ----------
    number : int
        Which node.
    source : ClassSource
    classes : tuple of int
        Its classes, by their number in the source.
    positions : tuple of int arrays
        For each class, which of its images are this node's.
    local_labels : bool, default False
        Number its classes from 0 on, in place of their numbers in the source.
    """

    number: int
    source: ClassSource
    classes: tuple[int, ...]
    positions: tuple[np.ndarray, ...]
    local_labels: bool = False

    @property
    def name(self) -> str:
        """What messages and logs call it."""
        return f"node {self.number}"

    @property
    def size(self) -> int:
        """Number of images: what its update counts in an average."""
        return sum(map(len, self.positions))

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each of its classes."""
        return tuple(range(len(self.classes))) if self.local_labels else self.classes

    def __repr__(self) -> str:
        return f"Node({self.number}: {self.size} images of {len(self.classes)} classes)"

    def fingerprint(self) -> str:
        """A short name for its images and their labels, which another content does not share.

        Computed at the first call and kept.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        own = zip(self.classes, self.positions, strict=True)
        images = (self.source.images_of(c, positions) for c, positions in own)
        return content_hash([list(map(int, self.labels)), *images])

    def settings(self) -> dict[str, Any]:
        """What decides its tasks, as JSON."""
        labels = [int(label) for label in self.labels]
        own = {"number": int(self.number), "images": self.size, "labels": labels}
        return {**own, "fingerprint": self.fingerprint()}

    def sampler(self, support: int, query: int, seed: int = 0) -> NodeSampler:
        """Tasks with ``support`` and ``query`` images of this node."""
        return NodeSampler(self, support, query, seed)


class NodeSampler(TaskSampler):
    """Tasks of one node: random access, as for every sampler.

    The support set takes the node's classes in turn, in random order, so that it is as even as
    can be; the query set is drawn from all other images of the node. Of a class, images are
    drawn at random.

    Parameters
    ----------
    node : Node
    support, query : int
        Images in each set.
    seed : int, default 0
        Which endless list of tasks.

    Raises
    ------
    ValueError
        If the node has fewer images than both sets need, naming it.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> source = tasks.from_arrays(torch.rand(20, 2), torch.arange(20) % 2)
    >>> node = Node(0, source, (0, 1), (np.arange(10), np.arange(6)))
    >>> task = node.sampler(support=5, query=4)[0]
    >>> sorted(task.support_y.bincount().tolist()), task.query_x.shape
    ([2, 3], torch.Size([4, 2]))
    """

    decided_by = ("node", "support", "query", "seed")

    def __init__(self, node: Node, support: int, query: int, seed: int = 0) -> None:
        support, query = check_count(support=support, query=query)
        seed = check_seed(seed)
        if node.size < support + query:
            raise ValueError(
                f"{node.name} has {node.size} images, fewer than support + query = "
                f"{support} + {query}"
            )
        self.node, self.support, self.query, self.seed = node, support, query, seed

    def __repr__(self) -> str:
        return (
            f"NodeSampler({self.node.name} of {self.node.source.name}, {self.support} support and "
            f"{self.query} query images, seed={self.seed})"
        )

    def __getitem__(self, index: int) -> Task:
        index, node, k = check_index(index), self.node, len(self.node.classes)
        draws = raw_draws(self.seed, index, k + node.size + self.query, node.number + 1)
        shuffled, start = [], k  # of each class: its images in the order in which they go
        for positions in node.positions:
            order = distinct(draws[start : start + len(positions)], len(positions))
            shuffled.append(positions[order])
            start += len(positions)
        counts = [len(positions) for positions in shuffled]
        taken = _in_turn(counts, distinct(draws[:k], k), self.support)
        support = [positions[:t] for positions, t in zip(shuffled, taken, strict=True)]
        left = [positions[t:] for positions, t in zip(shuffled, taken, strict=True)]
        chosen = distinct(draws[-self.query :], node.size - self.support)
        ends = np.cumsum([len(positions) for positions in left])
        of_class = np.searchsorted(ends, chosen, side="right")  # whose images these are
        more = np.bincount(of_class, minlength=k)
        query = [positions[:m] for positions, m in zip(left, more, strict=True)]
        tags = {"index": index, "node": node.name, **node.source.describe(node.classes)}
        return Task(*self._set(support), *self._set(query), tags=tags)

    def _set(self, parts: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels, class after class."""
        node = self.node
        kept = [i for i, positions in enumerate(parts) if len(positions)]
        images = [node.source.images_of(node.classes[i], parts[i]) for i in kept]
        labels = np.repeat([node.labels[i] for i in kept], [len(parts[i]) for i in kept])
        return torch.from_numpy(np.concatenate(images)), torch.from_numpy(labels)


def _in_turn(counts: Sequence[int], order: Sequence[int], n: int) -> list[int]:
    """How many of each class are taken, one at a time in this order, if n are in all."""
    taken = [0] * len(counts)
    while n:
        for i in order:
            if n and taken[i] < counts[i]:
                taken[i], n = taken[i] + 1, n - 1
    return taken


class Across(TaskSampler):
    """The tasks of several nodes as one list: task i is of node ``i % n``, one after another.

    Parameters
    ----------
    nodes : sequence of Node
        At least one.
    support, query, seed
        As for :meth:`Node.sampler`.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> source = tasks.from_arrays(torch.rand(20, 2), torch.arange(20) % 2)
    >>> nodes = [Node(i, source, (i,), (np.arange(10),)) for i in range(2)]
    >>> Across(nodes, support=2, query=3)[1].query_y
    tensor([1, 1, 1])
    """

    decided_by = ("samplers",)

    def __init__(self, nodes: Sequence[Node], support: int, query: int, seed: int = 0) -> None:
        if not nodes:
            raise ValueError("nodes must not be empty")
        self.samplers = [node.sampler(support, query, seed) for node in nodes]

    def __repr__(self) -> str:
        return f"Across({len(self.samplers)} nodes, the first {self.samplers[0]!r})"

    def __getitem__(self, index: int) -> Task:
        turn, which = divmod(check_index(index), len(self.samplers))
        return self.samplers[which][turn]
