"""Write the pictures of the page "Teach it five things": ``python tools/teach_it/pictures.py``.

Emoji of test classes and glyphs of test scripts, which no shipped learner was trained on: every
n-th class of the package's own list, and of each class the first few drawings, so that nobody
chose them. They are written as sheets in a script, since a page opened from disk may not fetch.
"""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalearn_tut import tasks
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.tasks import ClassSource

FILE = Path(__file__).parents[2] / "book/_extra/teach/pictures.js"
EACH = {"emoji": (2, 5), "glyphs": (4, 5)}  # every n-th class, so many drawings of it


def sheet(source: ClassSource, every: int, drawings: int) -> tuple[list[str], np.ndarray]:
    """The names of the chosen classes, and their drawings: a row of the picture for each."""
    rows = [rows[:drawings] for rows in source.rows[::every]]
    names = [name.split(" ", 1)[1] if name[:2] == "U+" else name for name in source.class_names]
    images = np.stack([source.images[row] for row in rows])  # [classes, drawings, C, H, W]
    classes, n, channels, height, width = images.shape
    picture = images.transpose(0, 3, 1, 4, 2).reshape(classes * height, n * width, channels)
    return [name.lower() for name in names[::every]], picture


def on_white(picture: np.ndarray) -> Image.Image:
    """Glyphs are ink 255 on 0: on paper they are black on white."""
    return Image.fromarray(255 - picture[..., 0] if picture.shape[2] == 1 else picture)


def encoded(image: Image.Image) -> str:
    """A picture as an address that holds it, without loss."""
    file = io.BytesIO()
    image.save(file, "webp", lossless=True, quality=100, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def written() -> dict[str, dict[str, Any]]:
    """What the script holds, with the sheets as pictures."""
    kinds = re.findall(r"^Teach\.pictures\.(\w+) = (.*);$", FILE.read_text("utf-8"), re.MULTILINE)
    found = {kind: json.loads(text) for kind, text in kinds}
    for of in found.values():
        data = base64.b64decode(of["sheet"].split(",", 1)[1])
        of["sheet"] = Image.open(io.BytesIO(data)).convert("RGB")
    return found


def script() -> str:
    """The whole script."""
    lines = [
        "// Made by tools/teach_it/pictures.py. The licenses of the emoji are in LICENSE-DATA."
    ]
    for name, (every, drawings) in EACH.items():
        source = getattr(tasks, name)("test")
        names, picture = sheet(source, every, drawings)
        described = {
            "size": source.images.shape[-1],
            "drawings": drawings,
            "names": names,
            "sheet": encoded(on_white(picture)),
        }
        lines.append(f"Teach.pictures.{name} = {json.dumps(described, ensure_ascii=False)};")
    return "\n".join(["window.Teach ??= {};", "Teach.pictures = {};", *lines, ""])


def main() -> None:
    """Write it."""
    with atomic_write(FILE) as temporary:
        temporary.write_text(script(), "utf-8")
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
