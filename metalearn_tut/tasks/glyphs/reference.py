"""What the glyphs should be: the list of classes, a sample of pixels, and a checksum.

The list is stored rather than chosen anew, because which characters look the same is a
matter of a few gray levels, and a task must not change with the version of Pillow.
To make it again: ``python -c "from metalearn_tut.tasks.glyphs import reference as r; r.write()"``.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn_tut.files.cache import atomic_write
from metalearn_tut.tasks.glyphs.classes import choose_classes
from metalearn_tut.tasks.glyphs.rendering import font_files, render_classes

FILE = Path(__file__).with_name("reference.npz")
_SAMPLE = 96


class Reference(NamedTuple):
    """The contents of the reference file."""

    codepoints: np.ndarray  # [n] classes: train, validation, test
    sample_rows: np.ndarray  # [S] rows of all the images
    sample: np.ndarray  # uint8 [S, 28, 28] those images
    sha256: str  # of all the pixels, uint8 [20·n, 28, 28]
    made_with: str  # the versions that drew them


def read() -> Reference:
    """The reference that the package carries."""
    with np.load(FILE) as file:
        return Reference(
            *(file[name] for name in Reference._fields[:3]),
            *(str(file[name]) for name in Reference._fields[3:]),
        )


def write() -> None:
    """Choose the classes, draw them, and replace the reference file (a minute)."""
    codepoints = np.array(choose_classes(), dtype=np.int32)
    images = render_classes(codepoints.tolist())
    rows = np.linspace(0, len(images) - 1, _SAMPLE).astype(np.int32)
    digest = hashlib.sha256(images).hexdigest()
    values = Reference(codepoints, rows, images[rows], digest, versions())
    with atomic_write(FILE) as temporary:
        np.savez_compressed(temporary, **values._asdict())


def versions() -> str:
    """The versions that the pixels depend on."""
    return f"Pillow {version('pillow')}, matplotlib {version('matplotlib')}, {platform.machine()}"


def fingerprint() -> str:
    """Twelve hexadecimal digits that change with the fonts or with the list of classes."""
    digest = hashlib.sha256(FILE.read_bytes())
    for file in font_files():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def difference(images: np.ndarray, reference: Reference) -> float:
    """The mean absolute difference of ``images`` from the sample, in gray levels of 255."""
    drawn = images[reference.sample_rows].astype(np.int16)
    return float(np.abs(drawn - reference.sample).mean())
