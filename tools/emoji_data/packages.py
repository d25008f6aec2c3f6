"""The npm packages that the sheet is made of: fetched once, checked, read without unpacking."""

from __future__ import annotations

import csv
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


def _listed() -> tuple[dict[str, Drawings], Package]:
    with Path(__file__).with_name("packages.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    of = [Package(row["package"], row["version"], row["sha256"]) for row in rows]
    sets = {
        row["set"]: Drawings(row["house"], row["artist"], package)
        for row, package in zip(rows, of, strict=True)
        if row["set"]
    }
    return sets, of[-1]


# Two sets of one house are by the same people: the old and the new Noto. The last package of the
# list is Unicode's list of emoji, and holds no drawings.
SETS, UNICODE = _listed()
LICENSES = ("Apache-2.0", "MIT", "CC-BY-4.0")


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
