"""Write the learners of the page "Teach it five things".

    python tools/teach_it/learners.py [NAME …]

Each shipped learner that the page offers becomes the files that ``export_learner`` makes of it: one
that learns and answers, and its two halves. They are written as scripts, since a page opened from
disk may not fetch, and listed with what they were measured at in ``learners.js``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from shipped import measured

from metalearn_tut import pretrained
from metalearn_tut.deployment import export_learner
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.runs.building import load_config

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "book/_extra/teach/learners.js"
FOLDER = INDEX.with_name("learners")
HEAD = "// Made by tools/teach_it/learners.py.\nwindow.Teach ??= {};\n"
WHERE = "Teach.learners = "
STEPS = {1: "one gradient step", 2: "two gradient steps", 3: "three gradient steps"}
# What the page calls them, in its order.
TITLES = {
    "emoji_5way_1shot": "Color, large",
    "emoji_5way_1shot_small": "Color, small",
    "emoji_protonet": "Color, prototypes",
    "glyphs_5way_1shot": "Gray, large",
    "glyphs_5way_1shot_small": "Gray, small",
}


def described(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What the page says about a learner."""
    config = load_config(pretrained.path(name))
    right, half_width, n_tasks = measured(name)
    return {
        "name": name,
        "title": TITLES[name],
        "channels": config["model"]["in_channels"],
        "size": config["model"]["image_size"],
        "pictures": config["data"]["name"],
        "does": STEPS.get(config["algorithm"].get("inner_steps"), "five averages, no gradient"),
        "bytes": len(files["learn"]),
        "right": round(right, 4),
        "half_width": round(half_width, 4),
        "tasks": n_tasks,
        "sha256": checksum(name),
    }


def checksum(name: str) -> str:
    """Of the shipped learner's file, which the page's files were made from."""
    return hashlib.sha256(pretrained.path(name).read_bytes()).hexdigest()


def shown() -> list[dict[str, Any]]:
    """The learners that the page offers, as ``learners.js`` has them."""
    return json.loads(INDEX.read_text("utf-8").split(WHERE)[1].rstrip().rstrip(";"))


def unpacked(name: str) -> dict[str, bytes]:
    """The ONNX files of a learner, as its script has them."""
    text = (FOLDER / f"{name}.js").read_text("utf-8").split(f"Teach.files.{name} = ")[1]
    packed = json.loads(text.rstrip().rstrip(";"))
    return {part: base64.b64decode(data) for part, data in packed.items()}


def script(name: str, files: dict[str, bytes]) -> str:
    """A learner's files as a script."""
    packed = {part: base64.b64encode(data).decode() for part, data in files.items()}
    return f"{HEAD}Teach.files ??= {{}};\nTeach.files.{name} = {json.dumps(packed, indent=0)};\n"


def exported(name: str) -> dict[str, bytes]:
    """The learner as one ONNX file, and as two."""
    model = load_config(pretrained.path(name))["model"]
    shape = (model["in_channels"], model["image_size"], model["image_size"])
    learner = pretrained.load(name)
    with tempfile.TemporaryDirectory() as folder:
        files = {part: Path(folder, f"{part}.onnx") for part in ("learn", "adapt", "classify")}
        export_learner(learner, files["learn"], shape)
        export_learner(learner, files["adapt"], shape, classify=files["classify"])
        return {part: file.read_bytes() for part, file in files.items()}


def main(names: list[str]) -> None:
    """Export the named learners, or all, and list all."""
    for name in names or TITLES:
        save(FOLDER / f"{name}.js", script(name, exported(name)))
    listed = json.dumps([described(name, unpacked(name)) for name in TITLES], indent=2)
    save(INDEX, f"{HEAD}{WHERE}{listed};\n")


def save(file: Path, text: str) -> None:
    """Replace a file, whole or not at all, and say how large it is."""
    with atomic_write(file) as temporary:
        temporary.write_text(text, "utf-8")
    print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
