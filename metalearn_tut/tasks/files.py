"""The files behind the data sets: find them, read their images, keep what was decoded."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from metalearn_tut.files.archives import ARCHIVE_SUFFIXES, opened, walked
from metalearn_tut.files.cache import atomic_write, cache_dir, check_cache, remove_partial
from metalearn_tut.files.pictures import IMAGE_SUFFIXES, decode, decode_rgb

__all__ = [
    "IMAGE_SUFFIXES",
    "absent",
    "cached_arrays",
    "check_complete",
    "data_folders",
    "decode",
    "decode_rgb",
    "download_folder",
    "find",
    "find_images",
    "fingerprint",
    "image_names",
    "opened",
]

_FORMAT = 2  # raise it when decoding changes, so that arrays decoded before are not read


def data_folders(dataset: str, root: str | os.PathLike[str] | None) -> list[Path]:
    """Where the files of a data set may lie, in the order they are looked for.

    ``root`` if it is given, else the folder that ``METALEARN_TUT_DATA`` names and the
    cache folder; in each the subfolder ``dataset`` before the folder itself.
    """
    if root is not None:
        bases = [Path(root).expanduser()]
    else:
        named = os.environ.get("METALEARN_TUT_DATA")
        bases = [*([Path(named).expanduser()] if named else []), cache_dir()]
    return [folder for base in bases for folder in (base / dataset, base)]


def download_folder(dataset: str, root: str | os.PathLike[str] | None) -> Path:
    """Where a download is saved: ``root`` if it is given, else a folder in the cache."""
    return Path(root).expanduser() if root is not None else cache_dir() / dataset


def find(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The first file or folder of these names, folder by folder, or None."""
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.exists()), None)


def find_images(name: str, folders: Sequence[Path]) -> Path | None:
    """The first archive or folder of images called so, or None."""
    return find([f"{name}{suffix}" for suffix in (*ARCHIVE_SUFFIXES, "")], folders)


def absent(dataset: str, wanted: str, folders: Sequence[Path], remedy: str) -> FileNotFoundError:
    """The error for a missing file: what, where it was looked for, how to get it."""
    looked = ", ".join(map(str, folders))
    return FileNotFoundError(f"{dataset} needs {wanted}; not found in {looked}. {remedy}")


def image_names(names: Sequence[str]) -> list[str]:
    """Those members that are images, judged by their suffix."""
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def check_complete(counts: Mapping[str, int]) -> None:
    """Refuse classes that differ in their number of images: some must have been lost."""
    usual = max(Counter(counts.values()).items(), key=lambda item: (item[1], item[0]))[0]
    for place, count in counts.items():
        if count != usual or not count:
            raise ValueError(f"{place} is incomplete: it has {count} images, others {usual}")


def fingerprint(paths: Sequence[Path], *settings: object) -> str:
    """A short name for these files as they are now, and these settings.

    A file counts by its name, its size and the times at which its content and its entry in the
    file system were last changed; the second cannot be set back.
    """
    digest = hashlib.sha256(repr((_FORMAT, *settings)).encode())
    for path in paths:
        inside = sorted(path / name for name in walked(path)) if path.is_dir() else [path]
        for file in inside:
            found = file.stat() if file.exists() else file.lstat()  # a link to nothing
            name = file.relative_to(path.parent).as_posix()
            times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
            digest.update(f"\n{name} {found.st_size} {times}".encode())
    return digest.hexdigest()[:16]


def cached_arrays(name: str, build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of ``name`` from the cache folder; built and stored there the first time.

    A stored file that cannot be read (its checksums are verified) is built again.
    """
    path = cache_dir() / f"{name}.npz"
    if path.is_file():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                if stored.zip.testzip() is None:  # NumPy stops before the checksum
                    return {key: stored[key] for key in stored.files}
        except Exception:  # damage can surface as nearly any error
            pass
    check_cache(path.parent)
    arrays = build()
    remove_partial(path, older_than=3600)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    return arrays
