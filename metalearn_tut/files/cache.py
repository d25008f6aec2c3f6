"""Where prepared data is kept, and how a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_dir() -> Path:
    """The folder for rendered and decoded data: the user's cache folder by default.

    The environment variable ``METALEARN_TUT_CACHE`` names another one. The folder
    need not exist yet: :func:`check_cache` makes it.
    """
    if folder := os.environ.get("METALEARN_TUT_CACHE"):
        return Path(folder).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("metalearn-tut", appauthor=False))


def check_cache(folder: Path) -> None:
    """Refuse a folder that cannot be written to before a long work is done for it.

    Raises
    ------
    OSError
        Naming the folder, and how to name another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to the cache folder {folder}: {error.strerror}; "
            "METALEARN_TUT_CACHE names another one",
        ) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write ``path`` whole or not at all.

    The body writes to the temporary path that it is given (same folder, same suffix);
    when it ends well the file is flushed to disk and renamed over ``path``, so a
    reader sees the old file or the new one, never half of one. When it fails or is
    interrupted, the temporary file is removed and ``path`` is as it was. Do only the
    writing in the body, so that an ``OSError`` there can mean nothing else.

    Parameters
    ----------
    path : path
        The file to write; missing folders are made.

    Yields
    ------
    Path
        The temporary path, not created yet.

    Raises
    ------
    OSError
        If the file cannot be written (full disk, no permission), naming ``path``;
        ``errno`` is kept.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "run" / "history.json") as temporary:
    ...     _ = temporary.write_text("[]")
    >>> [file.name for file in (folder / "run").iterdir()]
    ['history.json']
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        reason = f"cannot write {target}: {error.strerror or error}"
        raise (OSError(error.errno, reason) if error.errno else OSError(reason)) from error
    finally:
        with suppress(OSError):  # after a rename, or in a folder that does not exist
            temporary.unlink()


def remove_partial(path: str | os.PathLike[str], older_than: float = 0.0) -> None:
    """Remove what a process left that was killed while it wrote ``path``.

    Parameters
    ----------
    path : path
        What :func:`atomic_write` was to write.
    older_than : float, default 0
        Seconds: younger files are left alone, where another process may be writing them.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / ".history-0123abcd.json").write_text("[")
    >>> remove_partial(folder / "history.json")
    >>> list(folder.iterdir())
    []
    """
    target = Path(path)
    for left in target.parent.glob(f".{target.stem}-{'[0-9a-f]' * 8}{target.suffix}"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime >= older_than:
                left.unlink()
