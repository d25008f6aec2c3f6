"""Classes with their images: what episodes are sampled from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple
from warnings import warn

import numpy as np

from metalearn_tut.checks import as_integer, check_choice, check_count, check_rows, check_seed
from metalearn_tut.files.content import content_hash
from metalearn_tut.tasks.sampler import EpisodeSampler, distinct, raw_draws

SPLITS = ("train", "validation", "test")
_NAMED = 10  # classes that a warning names
_AT_ONCE = 16 << 20  # bytes of images that are read at a time, for a fingerprint


def check_split(split: str) -> None:
    """Refuse a split that does not exist, naming those that do."""
    check_choice("split", split, SPLITS)


class LabelledImages(NamedTuple):
    """Plain supervised data: ``images [M, C, H, W]``, ``labels [M]``, class names."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ClassSource:
    """Images grouped by class; made by :func:`from_arrays`, :func:`from_dataset` and others.

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
        If there is not one name (and one group, where there are groups) per class, a row is
        none of the images or occurs twice (support and query set could share it), or
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
        rows = tuple(np.asarray(r, None if len(r) else np.int64) for r in self.rows)
        object.__setattr__(self, "rows", rows)  # also if they came as lists
        check_rows(rows, len(self.images), self.name)
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
        >>> from metalearn_tut.tasks import from_arrays
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
        names = [str(name) for name in self.class_names]
        groups = [str(group) for group in self.groups]
        facts = [names, groups, self.turns, self.within_group]
        return content_hash(chain(facts, self._contents()))  # one piece of images at a time

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

    def choose(self, c: int, draws: Sequence[int], shots: int) -> list[int]:
        """Positions within class ``c``, all different, one a draw: ``shots``, then the queries."""
        return distinct(list(draws), self.count(c))

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

    def check_enough(self, ways: int, shots: int, queries: int) -> None:
        """Refuse an episode that this source cannot fill, naming what is short."""
        per_class = shots + queries
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
                f"{self.class_names[counts.index(fewest)]!r} of {self.name} has {fewest}; "
                f"source.with_at_least({per_class}), or min_images={per_class}, leaves out such "
                "classes"
            )

    def with_at_least(self, n: int) -> ClassSource:
        """A source without the classes that have fewer than ``n`` images; a warning names them.

        Raises
        ------
        ValueError
            If no class has that many.

        Examples
        --------
        >>> import warnings
        >>> source = ClassSource(np.zeros((3, 2)), (np.array([0, 1]), np.array([2])), ("a", "b"))
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # arrays: left out 1 of 2 classes ... 'b' has 1
        ...     source.with_at_least(2).class_names
        ('a',)
        """
        (n,) = check_count(min_images=n)
        kept = [c for c, rows in enumerate(self.rows) if len(rows) >= n]
        if not kept:
            most = max(map(len, self.rows))
            raise ValueError(f"no class of {self.name} has {n} images: the largest has {most}")
        few = [c for c, rows in enumerate(self.rows) if len(rows) < n]
        named = ", ".join(f"{self.class_names[c]!r} has {len(self.rows[c])}" for c in few[:_NAMED])
        if few:
            others = f" (and {len(few) - _NAMED} others)" if len(few) > _NAMED else ""
            warn(
                f"{self.name}: left out {len(few)} of {len(self.rows)} classes with fewer than "
                f"{n} images: {named}{others}",
                stacklevel=2,
            )
        return self.select(kept)

    def select(self, classes: Sequence[int], name: str | None = None) -> ClassSource:
        """A source of these classes only, by their positions (before rotation).

        Raises
        ------
        ValueError
            If a position is none, or occurs twice: a task could hold one class as two.
        """
        places = [as_integer(c) for c in classes]
        allowed = range(len(self.rows))
        if not set(places) <= set(allowed) or len(set(places)) < len(places):
            raise ValueError(
                f"classes must be different positions in 0..{len(allowed) - 1}, the classes of "
                f"{self.name} before rotation, got {list(classes)}"
            )
        return replace(
            self,
            rows=tuple(self.rows[c] for c in places),
            class_names=tuple(self.class_names[c] for c in places),
            groups=tuple(self.groups[c] for c in places) if self.groups else (),
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
        parts = {"train": order[:a], "validation": order[a:b], "test": order[b:]}
        if not all(parts.values()):
            raise ValueError(f"{self.name} has {n} classes, too few for three splits")
        return tuple(self.select(part, f"{self.name} ({name})") for name, part in parts.items())

    def as_supervised(self) -> LabelledImages:
        """All images with their class index (not turned), for training a plain classifier."""
        rows = np.concatenate(self.rows)
        labels = np.repeat(np.arange(len(self.rows)), [len(r) for r in self.rows])
        return LabelledImages(self.images[rows], labels, self.class_names)
