"""mini-ImageNet: 100 classes of 600 colour images, from files that you already have.

Vinyals et al., "Matching networks for one shot learning" (NIPS 2016), with the 64/16/20
classes of Ravi and Larochelle, "Optimization as a model for few-shot learning" (ICLR 2017),
which lie beside this module. ImageNet's terms forbid passing the images on.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metalearn_tut.tasks import files
from metalearn_tut.tasks.cache import atomic_write, cache_dir, check_cache, remove_partial
from metalearn_tut.tasks.sampler import check_count
from metalearn_tut.tasks.source import ClassSource, check_split

_KEYS = {"train": "train", "validation": "val", "test": "test"}
_LAYOUT = (
    "The folder must hold one folder or one archive (.zip, .tar) of images per class, named by "
    "its wnid, such as n01532829.zip; name it as root, or set METALEARN_TUT_DATA."
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
        wnid. Its ``splits.json`` (``{"train": [...], "val": [...], "test": [...]}``), if there
        is one, replaces the usual class lists. Default: the folder (or its subfolder
        ``mini_imagenet``) that ``METALEARN_TUT_DATA`` names, then the cache folder.
    size : int, default 84
        Side of the images in pixels; images of another size are squeezed to this square.

    Raises
    ------
    FileNotFoundError
        If a class is absent; the message says where it was looked for.
    ValueError
        If an image cannot be decoded, or the classes differ in their number of images.
    OSError
        If the disk has no room for the decoded images.
    """
    check_split(split)
    check_count(size=size)
    folders = files.data_folders("mini_imagenet", root)
    classes = _class_lists(folders)[_KEYS[split]]
    paths = _locate(classes, folders)
    stored = cache_dir() / f"mini_imagenet-{split}-{size}-{files.fingerprint(paths, size)}.npy"
    if not stored.is_file():
        _decode(paths, size, stored)
    images = MappedImages(stored)
    rows = np.arange(len(images)).reshape(len(classes), -1)
    return ClassSource(images, tuple(rows), tuple(classes), name=f"mini_imagenet {split}")


class MappedImages:
    """An array in a ``.npy`` file, mapped into memory afresh for each read.

    A mapping that stays keeps every page that was ever touched, so that an epoch over the
    data would count as gigabytes of this process. It is also small to send to a worker.

    Parameters
    ----------
    path : path
        The file, as written by :func:`numpy.save`.

    Examples
    --------
    >>> import tempfile
    >>> np.save(path := Path(tempfile.mkdtemp()) / "images.npy", np.arange(6).reshape(3, 2))
    >>> images = MappedImages(path)
    >>> images.shape, images[[2, 0]].tolist()
    ((3, 2), [[4, 5], [0, 1]])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.ndim = mapped.shape, mapped.dtype, mapped.ndim
        self._path, self._offset = Path(path), mapped.offset

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        mapped = np.memmap(self._path, self.dtype, "r", self._offset, self.shape)
        chosen = np.asarray(mapped)[index]
        return chosen if chosen.base is None else chosen.copy()  # a view would keep the mapping

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


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


def _locate(classes: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    suffixes = (*files.ARCHIVE_SUFFIXES, "")
    found = {wnid: files.find([wnid + suffix for suffix in suffixes], folders) for wnid in classes}
    lacking = [wnid for wnid, path in found.items() if path is None]
    if lacking:
        wanted = f"the class {lacking[0]} (and {len(lacking) - 1} others)"
        raise files.absent("mini_imagenet", wanted, folders, _LAYOUT)
    return list(found.values())


def _decode(paths: Sequence[Path], size: int, stored: Path) -> None:
    """Write all images to ``stored``, one after the other, so that little memory is used."""
    from tqdm import tqdm

    total = _per_class(paths) * len(paths)
    _check_room(stored.parent, total * 3 * size * size)
    header = {"descr": "|u1", "fortran_order": False, "shape": (total, 3, size, size)}
    bar = tqdm(total=total, desc=f"decoding {stored.name.rsplit('-', 2)[0]}", unit="image")
    remove_partial(stored, older_than=3600)
    with atomic_write(stored) as temporary, temporary.open("wb") as file, bar:
        np.lib.format.write_array_header_1_0(file, header)
        for path in paths:
            with files.opened(path) as (names, read):
                for name in files.image_names(names):
                    image = files.decode_rgb(read(name), f"{name} in {path}", size)
                    file.write(image.tobytes())
                    bar.update()


def _per_class(paths: Sequence[Path]) -> int:
    """How many images each class has; they must agree."""
    counts = {}
    for path in paths:
        with files.opened(path) as (names, _):
            counts[str(path)] = len(files.image_names(names))
    files.check_complete(counts)
    return max(counts.values())


def _check_room(folder: Path, need: int) -> None:
    check_cache(folder)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"decoded mini-ImageNet needs {need / 1e9:.2f} GB in {folder}, "
            f"but {free / 1e9:.2f} GB are free; METALEARN_TUT_CACHE names another folder",
        )
