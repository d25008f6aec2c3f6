"""The embedded data set in color: emoji, each drawn by five to seven artists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metalearn_tut.files.content import content_hash
from metalearn_tut.tasks.emoji.augmentation import Jittered
from metalearn_tut.tasks.emoji.index import houses, read_index
from metalearn_tut.tasks.emoji.sheet import check_size, read_tiles, shrunk
from metalearn_tut.tasks.emoji.splits import houses_of, split_of
from metalearn_tut.tasks.sampler import TaskSampler, distinct
from metalearn_tut.tasks.source import ClassSource, check_split


@dataclass(frozen=True, eq=False, repr=False)
class EmojiSource(ClassSource):
    """Classes of drawings that know who drew them; made by :func:`emoji`.

    Parameters
    ----------
    houses : int array [M]
        Who drew each of ``images``, a position in :func:`~metalearn_tut.tasks.emoji.index.houses`.
    cross_artist : bool, default False
        Of each class of a task, support and query set are by different houses.
    augment : bool, default False
        Tasks are :class:`~metalearn_tut.tasks.emoji.augmentation.Jittered`.
    """

    houses: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    cross_artist: bool = False
    augment: bool = False

    def settings(self) -> dict[str, Any]:
        """What the tasks are made of, as JSON."""
        own = {"cross_artist": self.cross_artist, "houses": content_hash([self.houses])}
        return super().settings() | own  # whether they are augmented, their sampler says

    def sampler(self, ways: int, shots: int, queries: int = 4, seed: int = 0) -> TaskSampler:
        """Tasks of these classes, augmented or not; a class has five to seven drawings."""
        plain = super().sampler(ways, shots, queries, seed)
        return Jittered(plain, plain.seed) if self.augment else plain

    def choose(self, c: int, draws: Sequence[int], shots: int) -> list[int]:
        """Positions within class ``c``, the support set's first, one for each draw."""
        if not self.cross_artist:
            return super().choose(c, draws, shots)
        drawn_by = self.houses[self.rows[c % len(self.rows)]]
        support = distinct(draws[:shots], len(drawn_by))
        others = np.flatnonzero(~np.isin(drawn_by, drawn_by[support])).tolist()
        return support + [others[j] for j in distinct(draws[shots:], len(others))]

    def check_enough(self, ways: int, shots: int, queries: int) -> None:
        """Refuse an episode that this source cannot fill, naming what is short."""
        super().check_enough(ways, shots, queries)
        if not self.cross_artist:
            return
        for name, rows in zip(self.class_names, self.rows, strict=True):
            by_house = np.sort(np.unique(self.houses[rows], return_counts=True)[1])
            left = int(by_house[: len(by_house) - shots].sum())  # whoever drew the support set
            if left < queries:
                raise ValueError(
                    f"cross_artist=True with shots={shots} can leave {left} drawings of {name!r} "
                    f"by other artists, fewer than queries={queries}"
                )


def emoji(
    split: str,
    *,
    split_by: str = "class",
    artists: Sequence[str] | None = None,
    size: int = 32,
    cross_artist: bool = False,
    augment: bool | None = None,
) -> EmojiSource:
    """Emoji as different artists drew them; nothing to download.

    One class per emoji, RGB on white, ``uint8 [3, size, size]``, five to seven drawings a class
    by six houses: ``noto`` (two sets), ``fluent``, ``twemoji``, ``emojione``, ``fxemoji`` and
    ``streamline``. Classes are split by whole subgroups of Unicode's list, such as "food-fruit";
    the page "Emoji by artist" of the book says how, and who drew what under which license.

    ============  =========================  =======================================
    ``split_by``  classes                    drawings
    ============  =========================  =======================================
    ``"class"``   of the split               by every house
    ``"artist"``  of all splits              by the two houses that the split has
    ``"both"``    of the split               by the two houses that the split has
    ============  =========================  =======================================

    Classes with fewer than two drawings are left out.

    Parameters
    ----------
    split : {"train", "validation", "test"}
    split_by : {"class", "artist", "both"}, default "class"
        What is held out.
    artists : sequence of str, optional
        Only drawings by these houses.
    size : int, default 32
        Side of the images, 8 to 32; below 32 each pixel is the mean of the area that it covers.
    cross_artist : bool, default False
        Support and query set of a class are by different houses.
    augment : bool, optional
        Shift, scale, turn, mirror and tint every image of a task; by default in "train" only.

    Returns
    -------
    ClassSource
        ``groups`` are Unicode's subgroups.

    Raises
    ------
    ValueError
        If there is no such split, house or size, no class is left, or the sheet is damaged.

    Examples
    --------
    >>> emoji("test")
    ClassSource(emoji (test): 211 classes, 3x32x32 uint8)
    >>> task = emoji("test", cross_artist=True).sampler(ways=5, shots=1, queries=3)[0]
    >>> task.query_x.shape, task.tags["groups"][:2]
    (torch.Size([15, 3, 32, 32]), ('sport', 'animal-marine'))
    """
    check_split(split)
    chosen = houses_of(split, split_by, artists)
    size = check_size(size)
    kept = _drawings(split, split_by, chosen)
    if not kept:
        raise ValueError(f"artists: no class of {split!r} has two drawings by {', '.join(chosen)}")
    index = read_index()
    classes = [index.classes[c] for c in kept]
    tiles, sets = np.concatenate([np.array(of) for of in kept.values()]).T
    ends = np.cumsum([len(of) for of in kept.values()])
    by_set = np.array([houses().index(of.house) for of in index.sets])
    return EmojiSource(
        shrunk(read_tiles()[tiles], size),
        tuple(np.split(np.arange(len(tiles)), ends[:-1])),
        tuple(of.name for of in classes),
        tuple(of.subgroup for of in classes),
        name=_name(split, split_by, artists),
        houses=by_set[sets],
        cross_artist=bool(cross_artist),
        augment=split == "train" if augment is None else bool(augment),
    )


def _drawings(split: str, split_by: str, chosen: Sequence[str]) -> dict[int, list[tuple[int, int]]]:
    """The (tile, set) of each class's drawings by the chosen houses, where there are two."""
    index = read_index()
    here = [split_by == "artist" or split_of(of) == split for of in index.classes]
    found: dict[int, list[tuple[int, int]]] = {c: [] for c in range(len(here)) if here[c]}
    for tile, (s, c) in enumerate(index.tiles):
        if here[c] and index.sets[s].house in chosen:
            found[c].append((tile, s))
    return {c: drawings for c, drawings in found.items() if len(drawings) > 1}


def _name(split: str, split_by: str, artists: Sequence[str] | None) -> str:
    by = "" if split_by == "class" else f", split by {split_by}"
    return f"emoji ({split}{by}{', ' + ' and '.join(artists) if artists else ''})"
