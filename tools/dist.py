"""The files of a release, made and tried: ``python tools/dist.py HTML NOTEBOOKS DIST``.

HTML is the folder of built pages, NOTEBOOKS that of executed notebooks. DIST gets the wheel, the
source, a zip of the book for reading without a network, one of the executed notebooks, and
SHA256SUMS. The wheel is used, the source must give the same package, and the book must be whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import own_wheel

DATE = (2024, 1, 1, 0, 0, 0)  # of every file in a zip, so that the same pages give the same zip
WHOLE = ("index.html", "teach_it.html", "teach/index.html")  # and the wheel
UNSEEN = (".checked", ".buildinfo", "objects.inv")
TRIAL = """
import sys
from pathlib import Path
import metalearn_tut
from metalearn_tut import cli, pretrained, tasks
assert Path(metalearn_tut.__file__).is_relative_to(sys.argv[1]), metalearn_tut.__file__
assert cli.run([]) == 0
for name in pretrained.available():
    pretrained.load(name)
task = tasks.emoji("test").sampler(ways=5, shots=1, queries=1)[0]
assert task.support_x.shape == (5, 3, 32, 32)
"""


def source(folder: Path) -> Path:
    """The package's source distribution."""
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    with own_wheel.copied() as copy:
        subprocess.run([sys.executable, "-c", build, folder], cwd=copy, check=True)
    return folder / f"metalearn_tut-{own_wheel.version()}.tar.gz"


def zipped(file: Path, files: dict[str, Path]) -> Path:
    """A zip of files by the names that they get in it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, files[name].read_bytes())
    return file


def pages(html: Path, around: str) -> dict[str, Path]:
    """The built pages, in a folder called ``around``."""
    found = [p for p in html.rglob("*") if p.is_file() and p.name not in UNSEEN]
    return {f"{around}/{path.relative_to(html).as_posix()}": path for path in found}


def wrong(dist: Path) -> Iterator[str]:
    """Sentences about what does not work in the files made."""
    with tempfile.TemporaryDirectory() as place:
        yield from unused(dist / own_wheel.name(), Path(place) / "wheel")
        with tarfile.open(dist / f"metalearn_tut-{own_wheel.version()}.tar.gz") as archive:
            archive.extractall(place, filter="data")
        again = own_wheel.built(Path(place) / f"metalearn_tut-{own_wheel.version()}", Path(place))
        yield from differing(dist / own_wheel.name(), again)
    for file in dist.glob("*-book.zip"):
        yield from broken(file)


def unused(file: Path, place: Path) -> Iterator[str]:
    """Why the wheel cannot be used."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, file]
    subprocess.run(pip, check=True)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    trial = [sys.executable, "-c", TRIAL, place]
    ran = subprocess.run(trial, cwd=place, env=environment, capture_output=True, text=True)
    if ran.returncode:
        yield f"{file.name}: {ran.stderr.strip().splitlines()[-1]}"


def differing(first: Path, second: Path) -> Iterator[str]:
    """What the source gives another package by."""
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as two:
        names = {*one.namelist(), *two.namelist()}
        inside = [{i.filename: i.CRC for i in archive.infolist()} for archive in (one, two)]
    changed = [n for n in sorted(names) if inside[0].get(n) != inside[1].get(n)]
    yield from (f"the source gives another {name}" for name in changed if "RECORD" not in name)


def broken(file: Path) -> Iterator[str]:
    """What is wrong with a zipped book."""
    with zipfile.ZipFile(file) as archive:
        around = file.stem
        names = set(archive.namelist())
        for name in (
            "index.html",
            "teach_it.html",
            "teach/index.html",
            f"wheel/{own_wheel.name()}",
        ):
            if f"{around}/{name}" not in names:
                yield f"{file.name}: {name} is missing"
        here = str(own_wheel.ROOT).encode()
        for name in sorted(names):
            if here in archive.read(name):
                yield f"{file.name}: {name} names the folder {own_wheel.ROOT}"


def main(html: Path, notebooks: Path, dist: Path) -> None:
    """Make all files anew, and try them."""
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    named = f"metalearn-tut-{own_wheel.version()}"
    own_wheel.build(dist)
    source(dist.resolve())
    zipped(dist / f"{named}-book.zip", pages(html, f"{named}-book"))
    executed = {f"{named}-notebooks/{path.name}": path for path in notebooks.glob("*.ipynb")}
    zipped(dist / f"{named}-notebooks.zip", executed)
    if found := list(wrong(dist)):
        raise SystemExit("\n".join(found))
    files = sorted(dist.iterdir())
    sums = "".join(f"{own_wheel.checksum(file)}  {file.name}\n" for file in files)
    (dist / "SHA256SUMS").write_text(sums)
    for file in files:
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
