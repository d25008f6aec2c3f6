"""Decoded images in a file of the cache, read image by image."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from metalearn_tut.files.cache import atomic_write, check_cache, remove_partial


class MappedImages:
    """An array in a ``.npy`` file, mapped into memory afresh for each read.

    A mapping that stays keeps every page that was ever touched, so that an epoch over the
    data would count as gigabytes of this process. It is also small to send to a worker.

    Parameters
    ----------
    path : path
        The file, as written by ``numpy.save``.

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
        # absolute: the process may go to another folder
        self._path, self._offset = Path(path).absolute(), mapped.offset

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            mapped = np.memmap(self._path, self.dtype, "r", self._offset, self.shape)
        except (FileNotFoundError, ValueError) as error:
            raise FileNotFoundError(
                f"{self._path} was removed or cut off while it was in use: load the data again"
            ) from error
        chosen = np.asarray(mapped)[index]
        return chosen if chosen.base is None else chosen.copy()  # a view would keep the mapping

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def stored_images(
    stored: Path, shape: tuple[int, int, int, int], images: Iterable[np.ndarray], what: str
) -> MappedImages:
    """The images in a file of the cache; if it is absent, cut off or another's, it is written.

    Parameters are those of :func:`write_images`; ``images`` are drawn only if they are needed.
    """
    if not _is_whole(stored, shape):
        write_images(stored, shape, images, what)
    return MappedImages(stored)


def _is_whole(stored: Path, shape: tuple[int, ...]) -> bool:
    try:
        found = np.lib.format.open_memmap(stored, mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == np.uint8


def write_images(
    stored: Path, shape: tuple[int, int, int, int], images: Iterable[np.ndarray], what: str
) -> None:
    """Write decoded images to a ``.npy`` file one by one, so that little memory is used.

    Parameters
    ----------
    stored : path
        The file, written whole or not at all; its folder is made.
    shape : (M, C, H, W)
        Of all images together.
    images : iterable of uint8 arrays [C, H, W]
        The M images in their order.
    what : str
        What the progress bar and errors call them.

    Raises
    ------
    OSError
        If the disk has no room for them, before the first is decoded.
    """
    from tqdm import tqdm

    _check_room(stored.parent, prod(shape), what)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    bar = tqdm(images, f"decoding {what}", total=shape[0], unit="image")
    remove_partial(stored, older_than=3600)
    with atomic_write(stored) as temporary, temporary.open("wb") as file, bar:
        np.lib.format.write_array_header_1_0(file, header)
        for image in bar:
            file.write(image.tobytes())


def _check_room(folder: Path, need: int, what: str) -> None:
    check_cache(folder)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"decoded {what} needs {need / 1e9:.2f} GB in {folder}, "
            f"but {free / 1e9:.2f} GB are free; METALEARN_TUT_CACHE names another folder",
        )
