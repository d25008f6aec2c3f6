"""Anybody's own pictures, one folder per class, as a source of tasks."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from metalearn_tut.checks import check_choice, check_count
from metalearn_tut.files.archives import empty_folders
from metalearn_tut.files.cache import cache_dir
from metalearn_tut.files.mapped import MappedImages, stored_images
from metalearn_tut.files.pictures import decode_square
from metalearn_tut.tasks import files
from metalearn_tut.tasks.source import SPLITS, ClassSource

_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_DECODING = 2  # raise it when what may lie in one's own pictures is decoded in another way
# Pictures that Pillow alone does not read: to pass over them would be to lose them silently.
_UNREAD = tuple(
    [".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef"]
)


def image_folder(
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    size: int = 84,
    channels: int = 3,
    min_images: int = 1,
    groups: bool = False,
) -> ClassSource:
    """Your own pictures as classes: ``root/cat/1.jpg``, ``root/cat/2.png``, ``root/dog/...``.

    Pictures may differ in size, format and mode; each is decoded as a viewer shows it
    (:func:`metalearn_tut.files.pictures.decode`), its shorter side brought to ``size`` pixels
    and its middle cut out, so that proportions are kept. The first use writes them to the cache
    folder, from which they are read image by image; a change of any file makes them anew.

    Parameters
    ----------
    root : path
        A folder, zip or tar with one folder per class, named in any script; folders around them
        all, hidden files and files that are no pictures do not matter. Or with such a folder in
        each of ``train``, ``val`` (``validation``) and ``test``: these must not share a class.
    split : {"train", "validation", "test"}, optional
        Which classes: those in the folder of this name, or, if ``root`` has no such folders,
        those of :meth:`ClassSource.split` (60, 20 and 20 per cent of the classes, shuffled).
        Default: all, of a ``root`` without such folders.
    size : int, default 84
        Side of the images in pixels.
    channels : {3, 1}, default 3
        3 for colour, 1 for gray (255 is white); pictures are converted.
    min_images : int, default 1
        Leave out classes with fewer pictures; a warning names them.
    groups : bool, default False
        Class folders lie in folders of groups, ``root/birds/wren/1.jpg``. The class is then
        called "birds/wren" and its group "birds".

    Returns
    -------
    ClassSource
        Images ``uint8 [M, channels, size, size]``.

    Raises
    ------
    FileNotFoundError
        If ``root``, or the folder of ``split`` beside those of others, does not exist.
    ValueError
        If pictures cannot be decoded (the message names them), lie too deep or in no class
        folder, or two folders are one class: by case, Unicode form or spaces, or in two splits.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     Image.new("RGB", (30, 20)).save(root / name / "1.png")
    >>> image_folder(root, size=16)  # doctest: +ELLIPSIS
    ClassSource(...: 2 classes, 3x16x16 uint8)
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    check_choice("channels", channels, (1, 3))
    (size,) = check_count(size=size)
    path = Path(root).expanduser().absolute()  # "." has no name
    if not path.exists():
        raise FileNotFoundError(f"image_folder needs a folder, zip or tar, got {path}")
    with files.opened(path) as (names, _):
        pictures = _pictures(names, path)
        classes = _classes(pictures, names, path, 3 if groups else 2)
    found = {part for part, _ in classes}
    part = _chosen(found, split, path)
    images = _decoded(path, pictures, size, int(channels))
    chosen = {name: rows for (where, name), rows in classes.items() if where == part}
    source = ClassSource(
        images,
        tuple(np.array(rows, np.int64) for rows in chosen.values()),
        tuple(chosen),
        tuple(name.split("/")[0] for name in chosen) if groups else (),
        name=f"{path.name} ({part})" if part else path.name,
    ).with_at_least(min_images)
    return source.split()[SPLITS.index(split)] if split and not part else source


def _pictures(names: Sequence[str], path: Path) -> list[str]:
    unread = [name for name in names if name.lower().endswith(_UNREAD)]
    if unread:
        raise ValueError(
            f"{unread[0]} in {path}{_others(unread)} cannot be read: save such pictures as "
            "JPEG or PNG, or remove them"
        )
    if not (pictures := files.image_names(names)):
        raise ValueError(f"{path} holds no pictures ({', '.join(files.IMAGE_SUFFIXES)})")
    return pictures


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""


def _classes(
    pictures: Sequence[str], names: Sequence[str], path: Path, depth: int
) -> dict[tuple[str, str], list[int]]:
    """The rows of each class, by split ("" without such folders) and name, in order of names."""
    parts = [PurePosixPath(name).parts for name in pictures]
    around = _around(parts, depth)
    parts = [part[around:] for part in parts]
    in_splits = all(len(p) > depth and p[0].lower() in _SPLIT_OF for p in parts)
    depth += in_splits
    if not in_splits and all(len(p) == depth and p[0].lower() in _SPLIT_OF for p in parts):
        raise ValueError(
            f"{pictures[0]} in {path} lies in the folder of a split, and in no class folder: put "
            f"the pictures of a class into a folder of its own, {parts[0][0]}/<class>"
        )
    for name, part in zip(pictures, parts, strict=True):
        _check_depth(name, len(part), depth, path)
    folders: dict[tuple[str, ...], list[int]] = {part[:-1]: [] for part in parts}
    for i, part in enumerate(parts):
        folders[part[:-1]].append(i)
    for name in [*names, *(f"{folder}/" for folder in empty_folders(path))]:  # without a picture
        folder = tuple(name.split("/"))[around:-1]
        if len(folder) == depth - 1 and (not in_splits or folder[0].lower() in _SPLIT_OF):
            folders.setdefault(folder, [])
    return _named(folders, in_splits, path)


def _around(parts: Sequence[tuple[str, ...]], depth: int) -> int:
    """How many folders lie around all others, as in a zip of a folder."""
    around = 0
    while (
        all(len(p) > depth + around for p in parts)
        and len({p[around] for p in parts}) == 1
        and parts[0][around].lower() not in _SPLIT_OF
    ):
        around += 1
    return around


def _check_depth(name: str, found: int, depth: int, path: Path) -> None:
    if found < depth:
        raise ValueError(f"{name} in {path} lies in no class folder: move or remove it")
    if found > depth:
        raise ValueError(
            f"{name} in {path} lies in a folder inside a class folder: put the pictures of a class "
            "into one folder; if the first folders are groups of classes, say groups=True"
        )


def _named(
    folders: dict[tuple[str, ...], list[int]], in_splits: bool, path: Path
) -> dict[tuple[str, str], list[int]]:
    """Split and name of every folder; no two may be one class to the eye or in two splits."""
    classes: dict[tuple[str, str], list[int]] = {}
    known: dict[str, str] = {}
    for folder in sorted(folders, key=lambda f: unicodedata.normalize("NFC", "/".join(f))):
        split = _SPLIT_OF[folder[0].lower()] if in_splits else ""
        name = unicodedata.normalize("NFC", "/".join(folder[in_splits:]))
        place = "/".join(folder)
        first = known.setdefault(_to_the_eye(name), place)
        if first != place:
            raise ValueError(
                f"{first!r} and {place!r} in {path} are one class: classes must differ in more "
                "than case, Unicode form or spaces and dots at the end, and be in one split only. "
                "Merge or rename them"
            )
        classes[split, name] = folders[folder]
    return classes


def _to_the_eye(name: str) -> str:
    """What two names have in common that look alike, or are one on some systems."""
    return "/".join(part.strip().rstrip(". ") or part for part in name.casefold().split("/"))


def _chosen(found: set[str], split: str | None, path: Path) -> str:
    """The split whose folder is read, or "" if there are none."""
    if found == {""}:
        return ""
    has = ", ".join(sorted(found, key=SPLITS.index))
    if split is None:
        raise ValueError(f"{path} has folders for {has}: name one as split, or as root")
    if split not in found:
        raise FileNotFoundError(f"{path} has folders for {has}, but none for {split}")
    return split


def _decoded(path: Path, pictures: Sequence[str], size: int, channels: int) -> MappedImages:
    name = f"image_folder-{size}-{channels}-{files.fingerprint([path], size, channels, _DECODING)}"
    shape = (len(pictures), channels, size, size)
    squares = _squares(path, pictures, size, channels)
    return stored_images(cache_dir() / f"{name}.npy", shape, squares, path.name)


def _squares(path: Path, pictures: Sequence[str], size: int, channels: int) -> Iterator[np.ndarray]:
    """All pictures in turn; those that cannot be decoded are named together at the end."""
    broken: list[str] = []
    with files.opened(path) as (_, read):
        for name in pictures:
            try:
                yield decode_square(read(name), f"{name} in {path}", size, channels)
            except ValueError as error:
                broken.append(str(error))
                yield np.zeros((channels, size, size), np.uint8)
    if broken:
        listed = "; ".join(broken[:10]) + (f"; and {len(broken) - 10} more" if broken[10:] else "")
        raise ValueError(f"{len(broken)} of {len(pictures)} pictures are broken: {listed}")
