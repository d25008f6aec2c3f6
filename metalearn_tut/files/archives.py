"""The files in a folder, zip or tar; an archive that means harm is refused before it is read.

Nothing is unpacked to disk. An archive is refused for what it declares: members that would lie
outside its folder (``..``, absolute paths, drive letters), links, two members of one name, and
sizes beyond the constants below. A member never yields more than the size it declares.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
# Limits, in bytes, of what an archive may declare. Pictures hardly shrink when packed, so
# that what grows more than MAX_RATIO times is a bomb, or not worth the risk.
MAX_MEMBER = 512 << 20  # of one file in an archive
MAX_TOTAL = 256 << 30  # of all files of a zip, which is read file by file
MAX_TAR = 8 << 30  # of all files of a tar, which is held in memory
MAX_RATIO = 200  # unpacked to packed, of what is larger than HARMLESS
HARMLESS = 16 << 20
# What systems leave beside pictures: the resource forks, thumbnails and settings of macOS,
# Windows and network drives.
_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
_NOT_INSIDE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)")

_ENCRYPTED = 1  # a bit among the flags of a zip's member

Read = Callable[[str], bytes]


def is_hidden(name: str) -> bool:
    """Whether a file is a by-product of the system that made or packed the folder."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.lower() in _LITTER
        for part in name.split("/")
    )


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Read]]:
    """The files in a folder, zip or tar: their sorted names, and a function that reads one.

    Names are relative, with forward slashes whatever the archive has; hidden files are left
    out. Links inside a folder are followed. A zip is read member by member; a tar, which has
    no index, whole.

    Raises
    ------
    ValueError
        If the archive, or a member when it is read, is damaged or refused, or two links in a
        folder lead to one place; the message names it.
    """
    with ExitStack() as stack:
        with _damage_named(str(path)):
            names, read_raw = _members(path, stack)

        def read(name: str) -> bytes:
            with _damage_named(f"{name} in {path}"):
                return read_raw(name)

        yield sorted(names, key=_everywhere), read


def _everywhere(name: str) -> tuple[str, str]:
    """What sorts a folder's files alike on every system: macOS stores accents apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name), name


class Refused(ValueError):
    """An archive that is whole, and not read."""


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    """Give every way in which an archive can be unreadable one form that names the file."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # zip, tar, gzip and zlib each raise kinds of their own
        raise ValueError(f"cannot read {what}: {error}; fetch the file again") from error


def _members(path: Path, stack: ExitStack) -> tuple[list[str], Read]:
    if path.is_dir():
        found = {name: path / name for name in walked(path)}
        inside = _by_name(path, [(name.replace("\\", "/"), file) for name, file in found.items()])
        return list(inside), lambda name: inside[name].read_bytes()
    if path.name.lower().endswith(".zip"):
        return _zip_members(path, stack.enter_context(zipfile.ZipFile(path)))
    if not path.name.lower().endswith(ARCHIVE_SUFFIXES) and not tarfile.is_tarfile(path):
        raise Refused(
            f"{path} is neither a folder nor an archive that is read "
            f"({', '.join(ARCHIVE_SUFFIXES)}): unpack it to a folder"
        )
    return _tar_members(path, stack.enter_context(tarfile.open(path)))


def walked(folder: Path) -> Iterator[str]:
    """The files of a folder that are not hidden, links followed, as ``os.walk`` finds them."""
    seen: dict[str, str] = {}
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            raise Refused(f"{seen[real]} and {place} are one folder: remove the link")
        seen[real] = place
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in files:
            file = Path(place, name)
            if not is_hidden(name) and (file.is_file() or file.is_symlink()):
                yield _readable((inside / name).as_posix(), folder)


def _readable(name: str, folder: Path) -> str:
    """The name of a file, if it is text: no results file could hold another."""
    if not name.isprintable():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Refused(f"{name!r} in {folder} is no name in Unicode: rename it") from None
    return name


def empty_folders(path: Path) -> list[str]:
    """The folders inside a folder that hold nothing; of an archive, none."""
    found = (Path(place) for place, folders, files in os.walk(path) if not folders + files)
    names = (folder.relative_to(path).as_posix() for folder in found)
    return [name for name in names if name != "." and not is_hidden(name)]


def _raise(error: OSError) -> NoReturn:
    raise error


@dataclass(frozen=True)
class _Member:
    """What an archive declares of a file in it."""

    name: str
    size: int
    packed: int
    is_link: bool


def _zip_members(path: Path, archive: zipfile.ZipFile) -> tuple[list[str], Read]:
    limits, inside = _Limits(path, MAX_TOTAL), []
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        if name.endswith("/") or is_hidden(name.lstrip("/")):
            continue
        if info.flag_bits & _ENCRYPTED:
            raise Refused(f"refused: {name} in {path} is encrypted; unpack it to a folder")
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        limits.check(_Member(name, info.file_size, info.compress_size, is_link))
        inside.append((name, info))
    found = _by_name(path, inside)

    def read(name: str) -> bytes:
        with archive.open(found[name]) as file:
            return file.read(found[name].file_size + 1)  # never more than it declares

    return list(found), read


def _tar_members(path: Path, archive: tarfile.TarFile) -> tuple[list[str], Read]:
    limits, inside = _Limits(path, MAX_TAR), []
    for info in archive:  # each is checked before the next is looked for
        name = info.name.replace("\\", "/")
        if info.isdir() or is_hidden(name.lstrip("/")):
            continue
        limits.check(_Member(name, info.size, path.stat().st_size, not info.isfile()))
        inside.append((name, info))
    found = _by_name(path, inside)

    @cache
    def contents() -> dict[str, bytes]:
        return {name: archive.extractfile(info).read() for name, info in found.items()}

    return list(found), lambda name: contents()[name]


class _Limits:
    """Refuses what an archive declares, member by member."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most, self.packed, self.total = path, most, path.stat().st_size, 0

    def check(self, member: _Member) -> None:
        """Count one more member, or refuse the archive for it."""
        where = f"{member.name} in {self.path}"
        if _NOT_INSIDE.match(member.name):
            raise Refused(f"refused: {where} would lie outside the archive's folder")
        if member.is_link:
            raise Refused(f"refused: {where} is a link or device; unpack the archive to a folder")
        self.total += member.size
        _check_size(where, member.size, member.packed, MAX_MEMBER)
        _check_size(str(self.path), self.total, self.packed, self.most)


def _check_size(where: str, size: int, packed: int, most: int) -> None:
    if size > most:
        raise Refused(f"refused: {where} unpacks to {size:,} bytes, more than {most:,}")
    if size > HARMLESS and size > MAX_RATIO * packed:
        raise Refused(
            f"refused: {where} unpacks from {packed:,} to {size:,} bytes, more than {MAX_RATIO} "
            "times as many, as a decompression bomb does; unpack it to a folder if you trust it"
        )


def _by_name(path: Path, members: list[tuple[str, object]]) -> dict[str, object]:
    """Members under their plain names, of which each may occur once."""
    found: dict[str, object] = {}
    for name, member in members:
        plain = posixpath.normpath(name)
        if plain in found:
            raise Refused(f"refused: {path} holds {plain} twice")
        found[plain] = member
    return found
