"""Download a file once: resumed where the server allows, checked, whole or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from requests import Response

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 16
_BROKE = "the connection broke before the end"


@dataclass(frozen=True)
class ResumableDownloader:
    """A downloader for pooch that continues an interrupted download.

    Bytes go to ``part`` first, which stays where it is when the connection breaks; the
    next attempt asks the server for the rest (HTTP ``Range``). A server that sends the
    whole file instead is obeyed: the part begins anew.

    Parameters
    ----------
    part : Path
        The file that collects the bytes.

    Raises
    ------
    ConnectionError
        If the server cannot be reached, refuses, or stops before the end; the message
        says how far it came.
    """

    part: Path

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        """Fetch ``url`` into ``output_file``; called by pooch."""
        import requests

        try:
            self._fetch(url)
        except requests.exceptions.ChunkedEncodingError as error:
            raise ConnectionError(self._stopped(url, _BROKE)) from error
        except requests.RequestException as error:
            raise ConnectionError(self._stopped(url, str(error))) from error
        self.part.replace(output_file)

    def _fetch(self, url: str) -> None:
        with _request(url, self._size()) as response:
            if response.status_code == 416 and self._size():  # nothing lies beyond the part:
                if self._size() != _total(response):  # it is whole, or wrong
                    self.part.unlink()
                    self._fetch(url)
                return
            response.raise_for_status()
            begin = _first_byte(response)
            if begin not in (0, self._size()):
                raise ConnectionError(f"{url} answered with bytes from {begin}, not {self._size()}")
            total = _total(response)
            self._save(response, begin, total)
        if total is not None and self._size() < total:
            raise ConnectionError(self._stopped(url, _BROKE))

    def _save(self, response: Response, begin: int, total: int | None) -> None:
        from tqdm import tqdm

        bar = tqdm(total=total, initial=begin, unit="B", unit_scale=True, desc=self.part.stem)
        with bar, self.part.open("ab" if begin else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                self._write(file, chunk)
                bar.update(len(chunk))

    def _write(self, file: BinaryIO, chunk: bytes) -> None:
        try:
            file.write(chunk)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.part}: {error.strerror}") from error

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _stopped(self, url: str, reason: str) -> str:
        have = self._size()
        kept = f"; {have:,} bytes are kept, and the same command goes on from there" if have else ""
        return f"download of {url} stopped: {reason}{kept}"


def _request(url: str, begin: int) -> Response:
    import requests

    # "identity": a compressed transfer would make the lengths and ranges mean something else
    headers = {"Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    return requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)


def _first_byte(response: Response) -> int:
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _total(response: Response) -> int | None:
    """Size of the whole file, where the server tells."""
    if found := re.search(r"/(\d+)$", response.headers.get("Content-Range", "")):
        return int(found[1])
    length = response.headers.get("Content-Length")
    return int(length) if length and response.status_code == 200 else None


def download(url: str, sha256: str, folder: Path) -> Path:
    """The file of ``url`` in ``folder``, downloaded with a progress bar.

    Parameters
    ----------
    url : str
        Where it is published; the last part is the file's name.
    sha256 : str
        Its checksum.
    folder : Path
        Where it is saved; made if need be.

    Raises
    ------
    ConnectionError
        If it did not arrive whole (what came is kept and continued the next time).
    ValueError
        If it arrived with another checksum; nothing is kept then.
    """
    import pooch

    name = url.rsplit("/", 1)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    downloader = ResumableDownloader(folder / f"{name}.part")
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=downloader))
    except ValueError as error:
        raise ValueError(
            f"{url} was refused: its SHA-256 is not {sha256}, so it is altered or damaged; "
            "nothing was kept"
        ) from error
