"""mini-ImageNet: 100 classes of 600 colour images, from files that you already have.

Vinyals et al., "Matching networks for one shot learning" (NIPS 2016), with the 64/16/20
classes of Ravi and Larochelle, "Optimization as a model for few-shot learning" (ICLR 2017),
which lie beside this module. ImageNet's terms forbid passing the images on.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from metalearn_tut.checks import check_count
from metalearn_tut.files.cache import cache_dir
from metalearn_tut.files.mapped import stored_images
from metalearn_tut.tasks import files
from metalearn_tut.tasks.source import ClassSource, check_split

_KEYS = {"train": "train", "validation": "val", "test": "test"}
_LAYOUT = (
    "The folder must hold one folder or one archive (.zip, .tar) of images per class, named by "
    "its wnid, such as n01532829.zip or train/n01532829, or train.csv, val.csv, test.csv beside "
    "images; name it as root, or set METALEARN_TUT_DATA."
)


def mini_imagenet(
    split: str, root: str | os.PathLike[str] | None = None, *, size: int = 84
) -> ClassSource:
    """mini-ImageNet's classes, decoded once to a file that is read image by image.

    Images are ``uint8 [600·n, 3, size, size]`` for n classes (64 train, 16 validation, 20
    test). The first use writes them to the cache folder (at size 84: 0.81, 0.20 and 0.25 GB,
    a minute or less each); afterwards only the images that are asked for enter memory.

    Parameters
    ----------
    split : {"train", "validation", "test"}
    root : path, optional
        Folder with one folder or archive of images (WebP, JPEG, PNG) per class, named by its
        wnid, in the folder itself or in its ``train``, ``val``, ``test`` or ``images``. Its
        ``splits.json`` (``{"train": [...], "val": [...], "test": [...]}``), if there is one,
        replaces the usual class lists. Or the files of Ravi and Larochelle: ``train.csv``,
        ``val.csv`` and ``test.csv`` (lines ``filename,label``) beside a folder or archive
        ``images``. Default: the folder (or its subfolder ``mini_imagenet``) that
        ``METALEARN_TUT_DATA`` names, then the cache folder.
    size : int, default 84
        Side of the images in pixels; images of another size are squeezed to this square.

    Raises
    ------
    FileNotFoundError
        If a class is absent; the message says where it was looked for.
    ValueError
        If an image cannot be decoded, the classes differ in their number of images, or there
        are only pickles: to read one is to run what it says.
    OSError
        If the disk has no room for the decoded images.
    """
    check_split(split)
    (size,) = check_count(size=size)
    classes, key = _located(split, files.data_folders("mini_imagenet", root))
    files.check_complete({c.place: len(c.images) for c in classes})
    name = f"mini_imagenet-{split}-{size}"
    stored = cache_dir() / f"{name}-{files.fingerprint(key, size)}.npy"
    ends = [0, *accumulate(len(c.images) for c in classes)]
    shape = (ends[-1], 3, size, size)
    images = stored_images(stored, shape, _pictures(classes, size), name)
    rows = tuple(np.arange(begin, end) for begin, end in pairwise(ends))
    names = tuple(c.name for c in classes)
    return ClassSource(images, rows, names, name=f"mini_imagenet {split}")


@dataclass(frozen=True)
class _Class:
    """A class, and where its images lie: which of those in a folder or archive."""

    name: str
    container: Path
    images: tuple[str, ...]

    @property
    def place(self) -> str:
        """What errors call it."""
        return str(self.container) if self.name in self.container.name else f"class {self.name}"


def _located(split: str, folders: Sequence[Path]) -> tuple[list[_Class], list[Path]]:
    """The classes of a split, and the files whose change would change them."""
    wanted = _class_lists(folders)[_KEYS[split]]
    places = [f / inside for f in folders for inside in ("", _KEYS[split], split, "images")]
    found = {wnid: files.find_images(wnid, places) for wnid in wanted}
    if lacking := [wnid for wnid, path in found.items() if path is None]:
        if listed := files.find([f"{_KEYS[split]}.csv"], folders):
            return _listed(listed)
        _refuse_pickles(folders)
        missing = f"the class {lacking[0]} (and {len(lacking) - 1} others)"
        raise files.absent("mini_imagenet", missing, folders, _LAYOUT)
    classes = []
    for wnid, path in found.items():
        with files.opened(path) as (names, _):
            classes.append(_Class(wnid, path, tuple(files.image_names(names))))
    return classes, list(found.values())


def _listed(path: Path) -> tuple[list[_Class], list[Path]]:
    """The classes of a CSV file, in the order in which it names them."""
    container = files.find_images("images", [path.parent])
    if container is None:
        raise FileNotFoundError(f"{path} lists images that must lie in {path.parent / 'images'}")
    labels = _labels(path)
    for other in {path.with_name(f"{key}.csv") for key in _KEYS.values()} - {path}:
        theirs = _labels(other) if other.is_file() else {}
        same = {"class": {*labels.values()} & {*theirs.values()}, "file": labels.keys() & theirs}
        for what, shared in same.items():
            if shared:
                raise ValueError(
                    f"{path} and {other.name} must share no {what}, both have {min(shared)}"
                )
    member: dict[str, str] = {}
    with files.opened(container) as (names, _):
        for name in files.image_names(names):
            first = member.setdefault(PurePosixPath(name).name, name)
            if first != name and PurePosixPath(name).name in labels:
                raise ValueError(f"{path} lists one file, {container} has two: {first} and {name}")
    if absent := next((name for name in labels if name not in member), None):
        raise ValueError(f"{path} lists {absent}, which {container} lacks")
    classes = [
        _Class(c, container, tuple(sorted(member[n] for n, label in labels.items() if label == c)))
        for c in dict.fromkeys(labels.values())
    ]
    return classes, [container, path]


def _labels(path: Path) -> dict[str, str]:
    """The label of each file that a CSV file lists."""
    labels: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error
    for i, line in enumerate(csv.reader(lines), start=1):
        row = [cell.strip() for cell in line]
        if not any(row) or (i == 1 and [cell.lower() for cell in row] == ["filename", "label"]):
            continue
        if len(row) != 2 or row[0] in labels:
            raise ValueError(f"{path}, line {i}: must be a new file and its label, got {row}")
        labels[row[0]] = row[1]
    if not labels:
        raise ValueError(f"{path} lists no image")
    return labels


def _refuse_pickles(folders: Sequence[Path]) -> None:
    """Say of the files that many repositories load why they are not read here."""
    pickles = chain.from_iterable(f.glob(f"*.{end}") for f in folders for end in ("pkl", "pickle"))
    if found := next(pickles, None):
        raise ValueError(
            f"{found} is a pickle, and to read one is to run what it says: it is not read here. "
            "Use a folder of images per class; or, if you trust who made it, load it yourself "
            "and give its images and labels to tasks.from_arrays"
        )


def _class_lists(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The wnids of each split: from the data's own ``splits.json``, or the usual ones."""
    own = files.find(["splits.json"], folders)
    path = own or Path(__file__).with_name("mini_imagenet_splits.json")
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        classes = [wnid for key in _KEYS.values() for wnid in lists[key]]
        if not all(map(lists.get, _KEYS.values())) or len(set(classes)) < len(classes):
            raise ValueError("a list is empty, or a class is listed twice")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} must be {{"train": [...], "val": [...], "test": [...]}} with different '
            f"wnids ({type(error).__name__}: {error})"
        ) from error
    return lists


def _pictures(classes: Sequence[_Class], size: int) -> Iterator[np.ndarray]:
    for container, inside in groupby(classes, key=lambda c: c.container):
        with files.opened(container) as (_, read):
            for name in chain.from_iterable(c.images for c in inside):
                yield files.decode_rgb(read(name), f"{name} in {container}", size)
