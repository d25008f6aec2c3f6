"""Classes with their images: what episodes are sampled from, the reader's own included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from metalearn_tut.tasks.content import content_hash
from metalearn_tut.tasks.sampler import (
    EpisodeSampler,
    check_choice,
    check_seed,
    distinct,
    raw_draws,
)

SPLITS = ("train", "validation", "test")
_AT_ONCE = 16 << 20  # bytes of images that are read at a time, for a fingerprint


def check_split(split: str, allowed: Sequence[str] = SPLITS) -> None:
    """Refuse a split that does not exist, naming those that do."""
    check_choice("split", split, allowed)


class LabelledImages(NamedTuple):
    """Plain supervised data: ``images [M, C, H, W]``, ``labels [M]``, class names."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ClassSource:
    """Images grouped by class; make one with :func:`from_arrays` or a data set's function.

    Parameters
    ----------
    images : array [M, ...]
        All examples, possibly memory-mapped; images are ``uint8 [M, C, H, W]``.
    rows : tuple of int arrays
        For each class, the rows of ``images`` that belong to it.
    class_names : tuple of str
        One name per class.
    groups : tuple of str, optional
        One group (script, alphabet) per class.
    name : str
        What messages and results call this source.
    within_group : bool, default False
        Draw all classes of a task from one group (harder tasks).
    turns : int, default 1
        4 makes every class four classes, by quarter turns of its images.

    Raises
    ------
    ValueError
        If there is not one name (and one group, where there are groups) per class, or
        ``within_group`` is asked of a source without groups.
    """

    images: np.ndarray
    rows: tuple[np.ndarray, ...]
    class_names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    name: str = "arrays"
    within_group: bool = False
    turns: int = 1

    def __post_init__(self) -> None:
        n = len(self.rows)
        if len(self.class_names) != n or len(self.groups) not in (0, n):
            raise ValueError(
                f"{self.name} has {n} classes, but {len(self.class_names)} names "
                f"and {len(self.groups)} groups"
            )
        if self.within_group and not self.groups:
            raise ValueError(f"within_group=True needs groups, and {self.name} has none")

    @property
    def n_classes(self) -> int:
        """Number of classes, rotated copies included."""
        return len(self.rows) * self.turns

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return (
            f"ClassSource({self.name}: {self.n_classes} classes, {shape} {self.images.dtype.name})"
        )

    def fingerprint(self) -> str:
        """A short name for all that tasks are made of, which another content does not share.

        A hash of every class's images in their order, their dtype and shape, the names of
        classes and groups, ``turns`` and ``within_group``; not of ``name``, nor of where the
        images lie. It is computed at the first call, at about a gigabyte a second, and kept.

        Examples
        --------
        >>> x, y = np.zeros((4, 2)), [0, 0, 1, 1]
        >>> one, two = from_arrays(x, y, name="one"), from_arrays(x, y, name="two")
        >>> one.fingerprint() == two.fingerprint()
        True
        >>> one.fingerprint() == from_arrays(x + 1, y).fingerprint()
        False
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names, groups = (list(map(str, part)) for part in (self.class_names, self.groups))
        return content_hash([names, groups, self.turns, self.within_group, *self._contents()])

    def _contents(self) -> Iterator[Any]:
        """Of every class the number of its images, and the images, a few at a time."""
        size = max(int(np.prod(self.images.shape[1:])) * self.images.dtype.itemsize, 1)
        step = max(_AT_ONCE // size, 1)
        for rows in self.rows:
            yield len(rows)
            yield from (self.images[rows[i : i + step]] for i in range(0, len(rows), step))

    def settings(self) -> dict[str, Any]:
        """What the tasks are made of, as JSON: what :meth:`TaskSampler.settings` compares."""
        return {
            "classes": self.n_classes,
            "shape": list(self.images.shape[1:]),
            "dtype": self.images.dtype.name,
            "within_group": self.within_group,
            "turns": self.turns,
            "fingerprint": self.fingerprint(),
        }

    def sampler(self, ways: int, shots: int, queries: int = 15, seed: int = 0) -> EpisodeSampler:
        """An :class:`EpisodeSampler` over these classes."""
        return EpisodeSampler(self, ways, shots, queries, seed)

    def rotated(self) -> ClassSource:
        """The same images with each quarter turn counted as a class of its own."""
        if self.images.ndim != 4 or self.images.shape[-1] != self.images.shape[-2]:
            raise ValueError(
                "rotated() needs square images [M, C, H, H], "
                f"got {self.name} of shape {self.images.shape}"
            )
        return replace(self, turns=4)

    def count(self, c: int) -> int:
        """Number of images of class ``c``."""
        return len(self.rows[c % len(self.rows)])

    def images_of(self, c: int, chosen: Sequence[int]) -> np.ndarray:
        """Images ``chosen`` (positions within the class) of class ``c``, turned if it is a copy."""
        turn, base = divmod(c, len(self.rows))
        images = self.images[self.rows[base][chosen]]
        return np.rot90(images, turn, axes=(-2, -1)) if turn else images

    def class_pools(self, ways: int) -> list[range | list[int]]:
        """The sets of classes that one task may draw from: one, or one per large enough group."""
        if not self.within_group:
            return [range(self.n_classes)]
        pools: dict[tuple[int, str], list[int]] = {}
        for c in range(self.n_classes):
            turn, base = divmod(c, len(self.rows))
            pools.setdefault((turn, self.groups[base]), []).append(c)
        return [pool for pool in pools.values() if len(pool) >= ways]

    def describe(self, classes: Sequence[int]) -> dict[str, Any]:
        """Tags of a task in label order: names and groups of its classes, and quarter turns."""
        bases = [c % len(self.rows) for c in classes]
        tags: dict[str, Any] = {"classes": tuple(self.class_names[b] for b in bases)}
        if self.groups:
            tags["groups"] = tuple(self.groups[b] for b in bases)
        if self.turns > 1:
            tags["turns"] = tuple(c // len(self.rows) for c in classes)
        return tags

    def check_enough(self, ways: int, per_class: int) -> None:
        """Refuse an episode that this source cannot fill, naming what is short."""
        if ways > self.n_classes:
            raise ValueError(
                f"ways={ways} needs {ways} classes, but {self.name} has {self.n_classes}"
            )
        if not self.class_pools(ways):
            raise ValueError(f"ways={ways}: no group of {self.name} has that many classes")
        counts = [len(rows) for rows in self.rows]
        if (fewest := min(counts)) < per_class:
            raise ValueError(
                f"shots + queries = {per_class} images per class, but class "
                f"{self.class_names[counts.index(fewest)]!r} of {self.name} has {fewest}"
            )

    def select(self, classes: Sequence[int], name: str | None = None) -> ClassSource:
        """A source of these classes only (before rotation)."""
        return replace(
            self,
            rows=tuple(self.rows[c] for c in classes),
            class_names=tuple(self.class_names[c] for c in classes),
            groups=tuple(self.groups[c] for c in classes) if self.groups else (),
            name=name or self.name,
        )

    def split(
        self, train: float = 0.6, validation: float = 0.2, seed: int = 0
    ) -> tuple[ClassSource, ClassSource, ClassSource]:
        """Three sources with different classes: train, validation and the rest as test.

        Parameters
        ----------
        train, validation : float
            Shares of the classes; what is left, ``1 - train - validation``, is the test set.
        seed : int, default 0
            Which shuffle of the classes.
        """
        check_seed(seed)
        n = len(self.rows)
        if not (train > 0 and validation > 0 and train + validation < 1):
            raise ValueError(
                "train and validation must be positive and sum to less than 1, "
                f"got {train} and {validation}"
            )
        order = distinct(raw_draws(seed, 0, n), n)
        a, b = round(n * train), round(n * (train + validation))
        parts = (order[:a], order[a:b], order[b:])
        if not all(parts):
            raise ValueError(f"{self.name} has {n} classes, too few for three splits")
        first, second, third = (
            self.select(part, f"{self.name} ({split})")
            for part, split in zip(parts, SPLITS, strict=True)
        )
        return first, second, third

    def as_supervised(self) -> LabelledImages:
        """All images with their class index (not turned), for training a plain classifier."""
        rows = np.concatenate(self.rows)
        labels = np.repeat(np.arange(len(self.rows)), [len(r) for r in self.rows])
        return LabelledImages(self.images[rows], labels, self.class_names)


def from_arrays(
    x: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    *,
    groups: Sequence[str] | None = None,
    name: str = "arrays",
) -> ClassSource:
    """Your own data as a source of tasks: images, features, anything with a label.

    Parameters
    ----------
    x : array or tensor [M, ...]
        Examples. ``uint8`` images ``[M, C, H, W]`` stay ``uint8`` until a network reads
        them; other dtypes become ``float32`` (``float64`` is kept).
    y : array or tensor [M]
        One label per example, of any type that can be sorted.
    groups : sequence of str, optional
        One group per class, in the order of the sorted labels.
    name : str, default "arrays"
        What messages call this source.

    Raises
    ------
    ValueError
        If lengths differ, ``x`` is empty, ``x`` holds NaN or infinite numbers, or ``y`` NaN.
    TypeError
        If ``x`` is not of numbers, or the labels cannot be sorted.

    Examples
    --------
    >>> import numpy as np
    >>> source = from_arrays(np.random.rand(40, 3, 8, 8), ["cat", "dog"] * 20)
    >>> source
    ClassSource(arrays: 2 classes, 3x8x8 float64)
    >>> source.sampler(ways=2, shots=1, queries=5)[0].query_x.shape
    torch.Size([10, 3, 8, 8])
    """
    examples, labels = _array(x, "x"), _array(y, "y")
    if labels.ndim != 1 or not examples.size or examples.shape[:1] != labels.shape:
        raise ValueError(
            "from_arrays needs x [M, ...] and y [M] with M >= 1, "
            f"got shapes {examples.shape} and {labels.shape}"
        )
    if examples.dtype.kind not in "buif":
        raise TypeError(f"x must be of numbers, got {examples.dtype}")
    if examples.dtype != np.uint8:
        examples = examples.astype(np.float64 if examples.dtype == np.float64 else np.float32)
        finite = np.isfinite(examples).reshape(len(examples), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"x must be finite, but row {int(finite.argmin())} has NaN or inf")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError("y must not be NaN")
    try:
        values, inverse = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"y must be of labels that can be sorted: {error}") from error
    rows = tuple(np.flatnonzero(inverse == c) for c in range(len(values)))
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"groups must name one group per class ({len(values)}), got {len(groups)}")
    return ClassSource(examples, rows, tuple(map(str, values)), tuple(groups or ()), name)


def _array(values: Any, name: str) -> np.ndarray:
    """A tensor, an array or nested lists as an array, or an error that names the argument."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from error
