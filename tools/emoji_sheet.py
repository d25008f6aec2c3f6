"""Make the package's sheet of emoji, its index, and the pictures of the data card.

    python tools/emoji_sheet.py [--check]

Needs npm (for the packages of drawings, whose versions and checksums are fixed in
emoji_data/packages.csv) and resvg-py; nobody who uses the package runs it. With ``--check`` nothing
is written: the exit status tells whether what is there is what would be written.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from emoji_data import figures
from emoji_data.choosing import Drawing, choose
from emoji_data.drawing import RENDERER
from emoji_data.names import license_of
from emoji_data.packages import LICENSES, SETS, UNICODE, fetch
from PIL import Image

from metalearn_tut.files.cache import atomic_write
from metalearn_tut.tasks.emoji.index import FILE as INDEX
from metalearn_tut.tasks.emoji.sheet import joined

COLUMNS = 64
SHEET = INDEX.with_name("sheet.webp")
MOST = 6_000_000  # bytes


def packed(images: np.ndarray) -> bytes:
    """The sheet as a lossless WebP file."""
    file = io.BytesIO()
    Image.fromarray(joined(images, COLUMNS)).save(
        file, "webp", lossless=True, quality=100, method=6
    )
    if len(file.getvalue()) > MOST:
        raise SystemExit(f"the sheet must not exceed {MOST:,} bytes, got {len(file.getvalue()):,}")
    return file.getvalue()


def described(drawings: list[Drawing], sheet: bytes) -> dict[str, Any]:
    """The index: the sheet's checksum, the sets, the classes with the sets that draw them."""
    names, classes = list(SETS), list(dict.fromkeys(d.emoji for d in drawings))
    by: dict[Any, list[int]] = {e: [] for e in classes}
    for d in drawings:
        by[d.emoji].append(names.index(d.set))
    digest = hashlib.sha256(sheet).hexdigest()
    return {
        "sheet": {"sheet": SHEET.name, "sha256": digest, "columns": COLUMNS},
        "sets": [_set(name) for name in names],
        "drawn_by": f"resvg-py {RENDERER}",
        "names_from": {"package": f"{UNICODE.name} {UNICODE.version}", "sha256": UNICODE.sha256},
        "classes": [[e.name, e.code_point, e.group, e.subgroup, sorted(by[e])] for e in classes],
    }


# Where the authors' own file, to which the package links, says another one of the drawings:
# Mozilla's has the Apache License for the code alone.
DRAWINGS_UNDER = {"fxemoji": "CC-BY-4.0"}


def _set(name: str) -> dict[str, str]:
    info, of = license_of(name), SETS[name]
    license = DRAWINGS_UNDER.get(name, info["license"]["spdx"])
    if license not in LICENSES:
        raise SystemExit(f"{name} is under {license}, which is none of {', '.join(LICENSES)}")
    return {
        "name": name,
        "artist": of.artist,
        "author": info["author"]["name"],
        "house": of.house,
        "license": license,
        "license_url": info["license"]["url"],
        "source": info["author"]["url"],
        "package": f"{of.package.name} {of.package.version}",
        "sha256": of.package.sha256,
    }


def written(index: dict[str, Any]) -> str:
    """The index as JSON, a class a line."""
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in index["classes"])
    head = json.dumps({**index, "classes": []}, indent=2, ensure_ascii=False)
    return head.replace('"classes": []', f'"classes": [\n{rows}\n  ]') + "\n"


def main() -> None:
    """Make everything anew, or check that it is what it would be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    fetch()
    drawings, images = choose()
    names = list(SETS)
    order = sorted(range(len(drawings)), key=lambda i: (names.index(drawings[i].set), i))
    sheet = packed(images[order])
    files = {SHEET: sheet, INDEX: written(described(drawings, sheet)).encode()}
    if check:
        changed = [str(f) for f, data in files.items() if not f.is_file() or f.read_bytes() != data]
        sys.exit(f"other than they would be made: {', '.join(changed)}" if changed else 0)
    for file, data in files.items():
        save(file, data)
    figures.write()


def save(file: Path, data: bytes) -> None:
    """Replace a file, whole or not at all, and say how large it is."""
    with atomic_write(file) as temporary:
        Path(temporary).write_bytes(data)
    print(f"{file}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
