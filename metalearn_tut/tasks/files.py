"""The files behind the data sets: find them, read their images, keep what was decoded."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from metalearn_tut.tasks.cache import atomic_write, cache_dir, check_cache, remove_partial

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_FORMAT = 1  # raise it when decoding changes, so that arrays decoded before are not read


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


def absent(dataset: str, wanted: str, folders: Sequence[Path], remedy: str) -> FileNotFoundError:
    """The error for a missing file: what, where it was looked for, how to get it."""
    looked = ", ".join(map(str, folders))
    return FileNotFoundError(f"{dataset} needs {wanted}; not found in {looked}. {remedy}")


def is_hidden(name: str) -> bool:
    """Whether an archive member is a by-product of the system that packed it."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The files in a folder, zip or tar: their sorted names, and a function that reads one.

    Names are relative, with forward slashes; hidden files are left out. A zip is read
    member by member; a tar, which has no index, whole.

    Raises
    ------
    ValueError
        If the archive, or a member when it is read, is damaged; the message names it.
    """

    with ExitStack() as stack:
        with _damage_named(str(path)):
            names, read_raw = _members(path, stack)

        def read(name: str) -> bytes:
            with _damage_named(f"{name} in {path}"):
                return read_raw(name)

        yield sorted(name for name in names if not is_hidden(name)), read


def _members(path: Path, stack: ExitStack) -> tuple[list[str], Callable[[str], bytes]]:
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        return names, lambda name: (path / name).read_bytes()
    if path.name.endswith(".zip"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        return [info.filename for info in archive.infolist() if not info.is_dir()], archive.read
    with tarfile.open(path) as packed:
        contents = {
            member.name.removeprefix("./"): packed.extractfile(member).read()
            for member in packed
            if member.isfile()
        }
    return list(contents), contents.__getitem__


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    """Give every way in which an archive can be unreadable one form that names the file."""
    try:
        yield
    except Exception as error:  # zip, tar, gzip and zlib each raise kinds of their own
        raise ValueError(f"cannot read {what}: {error}; fetch the file again") from error


def decode(data: bytes, where: str) -> Image:
    """A loaded Pillow image, or a ValueError that names the file it came from."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"cannot decode the image {where}: {error}") from error
    return image


def decode_rgb(data: bytes, where: str, size: int) -> np.ndarray:
    """One colour image as ``uint8 [3, size, size]``; other sizes are squeezed to a square."""
    from PIL import Image

    image = decode(data, where).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)


def image_names(names: Sequence[str]) -> list[str]:
    """Those members that are images, judged by their suffix."""
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def check_complete(counts: Mapping[str, int]) -> None:
    """Refuse classes that differ in their number of images: some must have been lost."""
    most = max(counts.values())
    for place, count in counts.items():
        if count < most or not count:
            raise ValueError(f"{place} is incomplete: it has {count} images, others {most}")


def fingerprint(paths: Sequence[Path], *settings: object) -> str:
    """A short name for these files as they are now (names, sizes, times) and these settings."""
    digest = hashlib.sha256(repr((_FORMAT, *settings)).encode())
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            stat = file.stat()
            name = file.relative_to(path.parent).as_posix()
            digest.update(f"\n{name} {stat.st_size} {stat.st_mtime_ns}".encode())
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
