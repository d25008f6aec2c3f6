"""The npm packages that the sheet is made of: fetched once, checked, read without unpacking."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "build" / "emoji"


class Package(NamedTuple):
    """One archive as ``npm pack`` leaves it."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The archive's file name."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


class Drawings(NamedTuple):
    """One set of drawings: its house (who drew it), its artist's name, and its package."""

    house: str
    artist: str
    package: Package


def _icons(name: str, version: str, sha256: str) -> Package:
    return Package(f"@iconify-json/{name}", version, sha256)


# Two sets of one house are by the same people: the old and the new Noto.
SETS = {
    "noto": Drawings(
        "noto",
        "Noto Emoji",
        _icons("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    ),
    "noto-v1": Drawings(
        "noto",
        "Noto Emoji (v1)",
        _icons("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    ),
    "fluent-emoji-flat": Drawings(
        "fluent",
        "Fluent Emoji Flat",
        _icons("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    ),
    "twemoji": Drawings(
        "twemoji",
        "Twemoji",
        _icons("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    ),
    "emojione": Drawings(
        "emojione",
        "Emoji One",
        _icons("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    ),
    "fxemoji": Drawings(
        "fxemoji",
        "Firefox OS Emoji",
        _icons("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    ),
    "streamline-emojis": Drawings(
        "streamline",
        "Streamline Emojis",
        _icons("streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"),
    ),
}
UNICODE = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
LICENCES = ("Apache-2.0", "MIT", "CC-BY-4.0")


def fetch(folder: Path = FOLDER) -> None:
    """Bring the archives that are not there yet, and check every one.

    Raises
    ------
    ValueError
        If an archive is not the one that the sheet was made of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in (*(drawings.package for drawings in SETS.values()), UNICODE):
        file = folder / package.file
        if not file.exists():
            wanted = f"{package.name}@{package.version}"
            subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != package.sha256:
            raise ValueError(f"{file} must have sha256 {package.sha256}, got {found}")


def read(package: Package, member: str, folder: Path = FOLDER) -> Any:
    """One JSON file of a package; nothing where the package lacks it."""
    with tarfile.open(folder / package.file) as archive:
        name = f"package/{member}"
        inside = archive.extractfile(name) if name in archive.getnames() else None
        return json.load(inside) if inside else {}
