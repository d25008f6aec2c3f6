"""What ``metalearn-tut data`` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metalearn_tut import tasks
from metalearn_tut.cli.checks import check_root
from metalearn_tut.cli.options import Data, shared
from metalearn_tut.tasks.emoji.index import notices


def data(o: Data, arguments: Sequence[str]) -> None:
    """Prepare a data set and print a line for each part of it."""
    check_root(o.name, o.root, downloads=o.download)
    places: dict[str, Any] = {} if o.name in ("emoji", "glyphs") else {"root": o.root}
    if o.name == "image_folder" and o.root is None:
        raise ValueError("image_folder needs --root: the folder of your pictures")
    if o.name in ("omniglot", "cifar10"):
        places["download"] = o.download
    elif o.download:
        raise ValueError(f"--download: {o.name} cannot be downloaded; see its --help")
    parts = [{"split": split} for split in shared.SPLITS]
    if o.name == "omniglot":
        parts += [{"split": "train", "background": small} for small in ("small1", "small2")]
    absent = []
    for part in parts:
        try:
            found = _summary(getattr(tasks, o.name)(**part, **places))
        except FileNotFoundError as error:
            absent.append(error)
            found = "absent"
        print(f"{' '.join(part.values())}: {found}", flush=True)
    if len(absent) == len(parts):
        raise absent[0]
    if o.name == "emoji":
        print("\n".join(notices()))


def _summary(source: tasks.ClassSource | tasks.LabelledImages) -> str:
    if isinstance(source, tasks.LabelledImages):
        shape = "x".join(map(str, source.images.shape[1:]))
        return f"{len(source.images):,} images {shape} in {len(source.class_names)} classes"
    groups = f", {len(set(source.groups))} groups" if source.groups else ""
    return f"{source!r}{groups}"
