"""Options that several commands have."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from metalearn_tut.runs.options import option

SEEDS = 2**63 - 1  # PyTorch takes none that is larger
SOURCES = ("emoji", "glyphs", "omniglot", "mini_imagenet", "image_folder")
SPLITS = ("train", "validation", "test")
NORMS = ("batch", "support", "group", "none")


def shipped(beginning: str) -> list[str]:
    """The learners that come with the package, whose names begin so: no PyTorch is needed."""
    folder = Path(__file__).parents[2] / "pretrained"
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    return [name for name in names if name.startswith(beginning)]


RUN = partial(option, positional=True, complete=shipped)
ROOT = partial(option, default=None, help="Folder of the data's files.")
ROTATIONS = partial(option, default=False, help="Quarter turns are classes of their own.")
WITHIN_GROUP = partial(option, default=False, help="Tasks within one script or alphabet.")
SHOTS = partial(option, default=1, help="Support images of each class.", min=1)
QUERIES = partial(
    option,
    default=None,
    help="Query images of each class.  [default: 15; emoji: all that are left]",
    min=1,
)
SEED = partial(option, min=0, max=SEEDS)
NORM = partial(
    option,
    help="Whose statistics normalize a query image; support is deployable.",
    choices=NORMS,
)
WIDTH = partial(option, default=32, help="Channels of Conv4's blocks.", min=1)
TASKS_PER_STEP = partial(option, default=4, help="Tasks of an outer step.", min=1)
THREADS = partial(option, default=None, help="Threads of each process.", min=1, max=1024)
WORKERS = partial(
    option,
    default=None,
    help="Tasks at a time in a process.  [default: as many as it has threads, up to 4]",
    min=1,
    max=1024,
)
DEVICE = partial(option, default="cpu", help="cpu, cuda, or another device of PyTorch.")
