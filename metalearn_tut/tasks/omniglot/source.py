"""Omniglot: 1,623 hand-drawn characters of 50 alphabets, 20 drawings each.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 350 (2015). The files are those of
https://github.com/brendenlake/omniglot (MIT license).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from metalearn_tut.checks import check_choice, check_count
from metalearn_tut.files.download import download as fetch
from metalearn_tut.tasks import files
from metalearn_tut.tasks.source import ClassSource, check_split

# Chosen by kind, never by score: runes, a European, an Indic, an invented and an African
# script, for such are the kinds of the evaluation set. None has a sister in training (as
# the two Georgian, the two Japanese and the three Canadian scripts have; Burmese has cousins
# there, as the Indic scripts of the evaluation set do), and none is in a small background set.
VALIDATION_ALPHABETS = (
    "Anglo-Saxon_Futhorc",
    "Armenian",
    "Burmese_(Myanmar)",
    "Futurama",
    "N_Ko",
)

_CHARACTER = re.compile(r"(.*/)?character\d+(/.*)?")  # a folder in or below one of these
_STEMS = {
    "full": "images_background",
    "small1": "images_background_small1",
    "small2": "images_background_small2",
    "test": "images_evaluation",
}
_URL = "https://github.com/brendenlake/omniglot/raw/master/python"
_SHA256 = {
    "images_background": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_background_small1": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    "images_background_small2": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    "images_evaluation": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
}


def omniglot(
    split: str,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    *,
    background: str = "full",
    rotations: bool = False,
    size: int = 28,
    within_alphabet: bool = False,
) -> ClassSource:
    """Omniglot's characters as classes, grouped by alphabet.

    Images are ``uint8 [M, 1, size, size]`` with ink 255 on 0 (the files have it the other
    way round); each pixel is the mean ink of the area under it. What was decoded is kept
    in the cache folder.

    Parameters
    ----------
    split : {"train", "validation", "test"}
        "validation" is five alphabets of the background set (``VALIDATION_ALPHABETS``, 163
        characters), "train" its other 25 (801 characters), "test" the evaluation set.
    root : path, optional
        Folder of the original zips or of the folders unzipped from them. Default: the
        folder (or its subfolder ``omniglot``) that ``METALEARN_TUT_DATA`` names, then the
        cache folder.
    download : bool, default False
        Fetch a missing zip (6 to 9 MB) into ``root``, or the cache folder.
    background : {"full", "small1", "small2"}, default "full"
        Which background set to train on; the small ones (five alphabets each) have no
        validation alphabet among theirs and are for ``split="train"`` only.
    rotations : bool, default False
        Count every quarter turn of a character as a class of its own.
    size : int, default 28
        Side of the images in pixels; the originals have 105.
    within_alphabet : bool, default False
        Draw all classes of a task from one alphabet.

    Raises
    ------
    FileNotFoundError
        If the file is absent; the message says where it was looked for.
    ValueError
        If an argument is not one of those allowed, or a file is damaged.
    """
    _check_arguments(split, background, size)
    stem = _STEMS["test" if split == "test" else background]
    path = _locate(stem, root, download)
    name = f"omniglot-{stem}-{size}-{files.fingerprint([path], size)}"
    arrays = files.cached_arrays(name, lambda: _decode(path, size))
    source = _as_source(arrays, f"omniglot {split if background == 'full' else background}")
    if background == "full" and split != "test":
        source = _background_part(source, split, path)
    elif held_out := set(source.groups) & set(VALIDATION_ALPHABETS):
        raise ValueError(f"{path} must not hold {min(held_out)}, an alphabet for validation")
    source = replace(source, within_group=within_alphabet)
    return source.rotated() if rotations else source


def _check_arguments(split: str, background: str, size: int) -> None:
    check_split(split)
    check_choice("background", background, ("full", "small1", "small2"))
    if background != "full" and split != "train":
        raise ValueError(
            f"background={background!r} is a training set: it goes with split='train', "
            f"got split={split!r}"
        )
    check_count(size=size)


def _locate(stem: str, root: str | os.PathLike[str] | None, download: bool) -> Path:
    folders = files.data_folders("omniglot", root)
    path = files.find([f"{stem}.zip", stem], folders)
    if path is None and download:
        return fetch(f"{_URL}/{stem}.zip", _SHA256[stem], files.download_folder("omniglot", root))
    if path is None:
        raise files.absent(
            "omniglot",
            f"{stem}.zip (or the folder {stem} unzipped from it)",
            folders,
            "Get it with `metalearn-tut data omniglot --download`, or name its folder as root.",
        )
    return path


def _decode(path: Path, size: int) -> dict[str, np.ndarray]:
    """All drawings of a file, to which character each belongs, and the characters' names."""
    from tqdm import tqdm

    with files.opened(path) as (names, read):
        drawings = files.image_names(names)
        characters = _characters(drawings, path)
        images = np.empty((len(drawings), 1, size, size), np.uint8)
        contents: dict[str, set[bytes]] = {}
        for i, name in enumerate(tqdm(drawings, desc=f"decoding {path.name}", unit="image")):
            data = read(name)
            images[i, 0] = read_ink(data, f"{name} in {path}", size)
            contents.setdefault(characters[i], set()).add(hashlib.sha256(data).digest())
    _check_different(contents, path)
    _check_copies(drawings, contents, path)
    class_names = list(contents)
    labels = [class_names.index(character) for character in characters]
    return {"images": images, "labels": np.array(labels), "class_names": np.array(class_names)}


def _characters(drawings: Sequence[str], path: Path) -> list[str]:
    """The name "Alphabet/characterNN" of each drawing, from all of its path.

    Everything above the alphabets must be the same folder: the files unzipped twice, or turned
    copies beside each other, would merge or repeat what must be apart.
    """
    parts = [PurePosixPath(name).parts for name in drawings]
    if not parts or min(map(len, parts)) < 3:
        raise ValueError(f"{path} must hold images as <alphabet>/<character>/<drawing>.png")
    for part in parts:
        if _CHARACTER.fullmatch("/".join(part[:-2])):
            raise ValueError(
                f"{path} must hold images as <alphabet>/<character>/<drawing>.png, but "
                f"{'/'.join(part)} lies in a folder inside its character (rotations=True turns "
                "the drawings)"
            )
    above = dict.fromkeys(path.joinpath(*part[:-3]) for part in parts)
    if len(above) > 1:
        one, other = list(above)[:2]
        raise ValueError(
            f"{path} must hold its alphabets in one folder, but they are in {one} and in {other}: "
            "remove one of the two"
        )
    characters = ["/".join(part[-3:-1]) for part in parts]
    counts = Counter(characters)
    files.check_complete({f"{character} in {path}": n for character, n in counts.items()})
    return characters


def _check_copies(drawings: Sequence[str], contents: Mapping[str, set[bytes]], path: Path) -> None:
    """Refuse drawings beside copies of themselves: support and query set could share one.

    That a single one is there twice is so in the original, and harmless.
    """
    names = Counter(str(PurePosixPath(name).with_suffix("")) for name in drawings)
    if twice := next((name for name, n in names.items() if n > 1), None):
        raise ValueError(f"{path} holds {twice} in two formats: remove one")
    each = len(drawings) // len(contents)  # all characters have as many
    for character, different in contents.items():
        if 1 < len(different) <= each / 2:  # one blank drawing may stand for anything
            raise ValueError(
                f"{path}: {character} has {each} files, but {len(different)} different drawings: "
                "remove the copies"
            )


def _check_different(contents: Mapping[str, set[bytes]], path: Path) -> None:
    """Refuse a character of two alphabets: its drawings could be in two splits."""
    known: dict[frozenset[bytes], str] = {}
    for character, drawings in contents.items():
        first = known.setdefault(frozenset(drawings), character)
        apart = first.split("/")[0] != character.split("/")[0]
        if apart and len(drawings) > 1:  # one blank drawing may stand for anything
            raise ValueError(f"{path}: {first} and {character} hold the same files: remove one")


def read_ink(data: bytes, where: str, size: int) -> np.ndarray:
    """One drawing as ``uint8 [size, size]``: 255 times the share of each pixel under ink.

    Computed here, as Pillow's box filter counts a source pixel wholly or not at all.
    """
    ink = 255.0 - np.asarray(files.decode(data, where).convert("L"))  # [105, 105]
    rows, columns = _overlaps(ink.shape[0], size), _overlaps(ink.shape[1], size)
    return np.rint(rows @ ink @ columns.T * (size * size / ink.size)).astype(np.uint8)


@cache
def _overlaps(n: int, size: int) -> np.ndarray:
    """Length that each of ``size`` equal pieces of [0, n] shares with [j, j + 1]: [size, n]."""
    edges, j = np.arange(size + 1) * (n / size), np.arange(n)
    begin, end = np.maximum(edges[:-1, None], j), np.minimum(edges[1:, None], j + 1)
    return np.maximum(end - begin, 0)


def _as_source(arrays: dict[str, np.ndarray], name: str) -> ClassSource:
    class_names = tuple(map(str, arrays["class_names"]))
    rows = tuple(np.flatnonzero(arrays["labels"] == c) for c in range(len(class_names)))
    groups = tuple(name.split("/")[0] for name in class_names)
    return ClassSource(arrays["images"], rows, class_names, groups, name)


def _background_part(source: ClassSource, split: str, path: Path) -> ClassSource:
    """The validation alphabets of the background set, or all others."""
    lacking = sorted(set(VALIDATION_ALPHABETS) - set(source.groups))
    if lacking:
        raise ValueError(f"{path} is incomplete: it lacks {', '.join(lacking)}")
    held_out = split == "validation"
    chosen = [c for c, g in enumerate(source.groups) if (g in VALIDATION_ALPHABETS) == held_out]
    if not chosen:
        raise ValueError(f"{path} is incomplete: it has only the validation alphabets")
    return source.select(chosen)
