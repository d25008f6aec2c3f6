"""What ``metalearn-tut learn`` does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from metalearn_tut import pretrained, runs
from metalearn_tut.cli.checks import check_file
from metalearn_tut.cli.commands.shared import check_ways, path_of
from metalearn_tut.cli.options import Learn
from metalearn_tut.deployment import export_learner, export_network
from metalearn_tut.files.archives import opened
from metalearn_tut.files.pictures import IMAGE_SUFFIXES, decode
from metalearn_tut.pretrained.choice import KINDS, kind_of, prepared, suited

if TYPE_CHECKING:
    from PIL.Image import Image

_NUMBER = re.compile(r"[ _-]+\(?\d+\)?$|\(\d+\)$")  # of another picture of the same thing
_USUAL = Path("learned.onnx")


class Shown(NamedTuple):
    """What a folder shows: its pictures, the label of each, and all labels in order."""

    pictures: list[Image]
    targets: list[int]
    labels: list[str]


def learn(o: Learn, arguments: Sequence[str]) -> None:
    """Adapt a learner to a folder of pictures, name new ones, and keep what was learned."""
    _check(o)
    shown = _shown(o.folder, {path.resolve() for path in o.new})
    new = [decode(path.read_bytes(), str(path)) for path in o.new]
    kind, ways = kind_of([*shown.pictures, *new]), len(shown.labels)
    each = len(shown.pictures) / ways
    name = o.learner or suited(kind, ways, each, pretrained.available())
    config, learner = runs.load_config(path_of(name)), runs.load_learner(path_of(name))
    check_ways(learner, ways)
    predict = learner.adapt(_seen(shown.pictures, config), torch.tensor(shown.targets))
    new_x = _seen(new, config)
    result = {
        "learner": name,
        "pictures": kind,
        "labels": shown.labels,
        "answers": [
            _answer(path, predict(x[None]).softmax(-1)[0].tolist(), shown.labels)
            for path, x in zip(o.new, new_x, strict=True)
        ],
    }
    if not o.json:
        print(_told(result, shown, config, chosen=o.learner is None), flush=True)
    shape, files = new_x.shape[1:], {}
    if o.out or find_spec("onnxruntime"):
        notes = {"labels": json.dumps(shown.labels), "learner": name}
        files["learned"] = o.out or _USUAL
        export_network(predict.deploy(), files["learned"], shape, notes=notes)
    if o.learner_out:
        files["learner"] = o.learner_out
        export_learner(learner, o.learner_out, shape, ways=ways)
    result["files"] = {what: str(file) for what, file in files.items()}
    print(json.dumps(result, ensure_ascii=False) if o.json else _kept(files, shape))


def _seen(pictures: Sequence[Image], config: Mapping[str, Any]) -> torch.Tensor:
    """Pictures as the learner of a configuration is shown them, ``uint8 [B, C, size, size]``."""
    return torch.from_numpy(np.stack([prepared(picture, config) for picture in pictures]))


def _check(o: Learn) -> None:
    """Refuse files that cannot be written or are not there."""
    for option, file in (("--out", o.out), ("--learner-out", o.learner_out)):
        if file is not None:
            if file.suffix != ".onnx":
                raise ValueError(f"{option} must end in .onnx, got {file}")
            check_file(option, file)
    if o.out is None:
        check_file("--out", _USUAL)
    if not o.folder.exists():
        raise FileNotFoundError(f"FOLDER: there is no {o.folder}")
    for path in o.new:
        if not path.is_file():
            raise FileNotFoundError(f"NEW: there is no picture {path}")


def _shown(folder: Path, new: set[Path]) -> Shown:
    """The pictures of a folder or archive but the new ones, and what they show."""
    found: dict[str, list[Image]] = {}
    with opened(folder) as (names, read):
        pictures = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
        for name in (n for n in pictures if (folder / n).resolve() not in new):
            found.setdefault(_label(name, folder), []).append(
                decode(read(name), f"{name} in {folder}")
            )
    if len(found) < 2:
        had = f"all are called {next(iter(found))!r}" if found else "there are none"
        raise ValueError(
            f"{folder} must hold pictures of two things or more, named by what they show "
            f"(cat.png, dog.png, dog_2.png) or in a folder for each; {had}"
        )
    targets = [k for k, of in enumerate(found.values()) for _ in of]
    return Shown([picture for of in found.values() for picture in of], targets, [*found])


def _label(name: str, folder: Path) -> str:
    """What a picture shows: by its folder if it is in one, else by its name without a number."""
    path = PurePosixPath(name)
    if len(path.parts) > 2:
        raise ValueError(f"{name} in {folder} lies too deep: folders hold pictures, not folders")
    return path.parts[0] if len(path.parts) == 2 else _NUMBER.sub("", path.stem) or path.stem


def _answer(path: Path, shares: Sequence[float], labels: Sequence[str]) -> dict[str, Any]:
    """What a picture is taken for, the likeliest first."""
    order = sorted(range(len(labels)), key=lambda k: -shares[k])
    likely = {labels[k]: round(shares[k], 6) for k in order}
    return {"file": str(path), "label": labels[order[0]], "probabilities": likely}


def _told(result: Mapping[str, Any], shown: Shown, config: Mapping[str, Any], chosen: bool) -> str:
    """What was learned and by whom, and a line for each picture: its five likeliest labels."""
    kind, name = result["pictures"], result["learner"]
    ways = len(shown.labels)
    why = f"{KINDS[kind]}, so {name} learns them" if chosen else f"{name} learns them"
    lines = [f"{len(shown.pictures)} pictures of {ways} things: {', '.join(shown.labels)}", why]
    if chosen and kind == "photo" and not name.startswith("photos"):
        lines.append("it was made for colored drawings, not for photographs: do not rely on it")
    trained = config.get("tasks", {}).get("ways", ways)
    if ways != trained and config["algorithm"]["name"] != "protonet":
        lines.append(f"it was trained on tasks of {trained} things: with {ways} it is less sure")
    for answer in result["answers"]:
        likely = [*answer["probabilities"].items()][:5]
        shares = (f"{label} {100 * share:.1f} %" for label, share in likely)
        lines.append(f"{answer['file']}: {', '.join(shares)}")
    return "\n".join(lines)


def _kept(files: Mapping[str, Path], shape: Sequence[int]) -> str:
    """A line for each file."""
    if not files:
        return "nothing is kept: ONNX files need pip install 'metalearn-tut[deploy]'"
    size = " x ".join(map(str, shape))
    what = {
        "learned": f"what it learned, for pictures {size} in 0..1",
        "learner": f"the learner itself, for pictures {size}",
    }
    rows = (f"{f}: {what[n]}; {f.stat().st_size:,} bytes" for n, f in files.items())
    return "\n".join(rows)
