"""The package as a wheel, the same bytes each time: ``python tools/own_wheel.py FOLDER``.

It is built from a copy of the package, since setuptools leaves its work in the source folder, and
without a network. The book brings it along, for notebooks on Colab.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT", "LICENSE-DATA")
CLEAN = shutil.ignore_patterns("__pycache__", "*.pyc")
DATE = "1704067200"  # of the files in it: 2024, so that nothing depends on when it is built


def version() -> str:
    """The version in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return re.search(r'^version = "(.*)"$', text, re.MULTILINE)[1]


def name() -> str:
    """What the wheel is called."""
    return f"metalearn_tut-{version()}-py3-none-any.whl"


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of what the package is built from, for a while."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "source"
        shutil.copytree(ROOT / "metalearn_tut", copy / "metalearn_tut", ignore=CLEAN)
        for file in BESIDE:
            shutil.copy(ROOT / file, copy / file)
        yield copy


def build(folder: Path) -> Path:
    """Build the wheel into a folder, and return its path."""
    with copied() as copy:
        return built(copy, folder)


def built(source: Path, folder: Path) -> Path:
    """Build the wheel of a folder with the package's source."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": DATE}
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True, env=environment)
    return Path(folder) / name()


def checksum(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    made = build(Path(sys.argv[1]))
    print(f"{made}: {made.stat().st_size:,} bytes, sha256 {checksum(made)}")
