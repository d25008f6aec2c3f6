"""The first picture of README and book: five drawings, a learner, and what it then recognizes.

    python tools/hero.py

Draws `book/_static/hero.webp`, which moves, and `book/_static/hero.png`, its last frame, from the
shipped emoji learner: the drawings are those of one task of held-out classes, queries by other
artists, and the bars are what the learner answers. `--task` chooses another task, `--learner`
another shipped learner.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from PIL import Image

from metalearn_tut import pretrained, tasks
from metalearn_tut.nb import schematic
from metalearn_tut.nb.plots import COLORS
from metalearn_tut.tasks.task import Task

STATIC = Path(__file__).parents[1] / "book" / "_static"
QUERIES = 3
GROW = 5  # frames in which bars reach their length
SHORT, LONG = 70, 2500  # milliseconds


def answers(learner: str, task: Task) -> torch.Tensor:
    """The learner's probabilities for each query of the task: ``[queries, ways]``."""
    predict = pretrained.load(learner).adapt(task.support_x, task.support_y)
    return predict(task.query_x).softmax(-1).detach()


def kilobytes(learner: str) -> int:
    """Of a learner's file."""
    return round(pretrained.path(learner).stat().st_size / 1000)


def frame(
    task: Task, shown: Sequence[int], told: torch.Tensor, step: float, kilobytes: int
) -> Image.Image:
    """One picture.

    ``step`` up to the number of ways: so many support drawings are there; up to one more: the
    learner adapts; then the queries answer one after another.
    """
    data = io.BytesIO()
    with schematic.sheet(10.4, 4.5) as ax:
        _support(ax, task, step, kilobytes)
        if step > task.ways + 1:
            schematic.text(ax, 5.9, 4.2, "somebody else's drawings of them", ha="left")
        for row, q in enumerate(shown):
            grown = min(1.0, step - (task.ways + 1) - row)
            if grown > 0:
                _answer(ax, task.query_x[q], told[q] * grown, 3.45 - 1.3 * row)
        ax.figure.savefig(data, format="png", dpi=100)
    return Image.open(data).convert("RGB")


def _support(ax: Axes, task: Task, step: float, kilobytes: int) -> None:
    said = "two gradient steps" if step > task.ways else ""
    schematic.text(ax, 0.35, 4.2, "five things it never saw, one drawing of each", ha="left")
    schematic.box(ax, 4.12, 2.05, 2.0, 1.5, f"learner\n{kilobytes} kB\n{said}")
    for k in range(min(task.ways, int(step) + 1)):
        y, color = 3.7 - 0.8 * k, COLORS[k]
        schematic.picture(ax, task.support_x[k], 0.7, y, 0.7, color)
        schematic.text(ax, 1.35, y, str(k + 1), color=color, fontweight="bold")
        if step >= task.ways:
            schematic.arrow(ax, (1.6, y), (3.05, 2.3 - 0.12 * k), color=color)


def _answer(ax: Axes, query: torch.Tensor, shares: torch.Tensor, y: float) -> None:
    best = int(shares.argmax())
    schematic.arrow(ax, (5.2, 2.05), (5.8, y))
    schematic.picture(ax, query, 6.4, y, 1.0)
    schematic.bars(ax, 7.2, y, shares.tolist(), 2.3, 1.0)
    said = f"{best + 1}: {shares[best]:.0%}"
    schematic.text(ax, 9.6, y, said, ha="left", color=COLORS[best], fontweight="bold")


def steps(ways: int) -> Iterator[tuple[float, int]]:
    """Every frame's ``step`` and how many milliseconds it stands."""
    for k in range(ways):
        yield k, 350
    yield ways, 600
    yield ways + 0.5, 900
    for row in range(QUERIES):
        for part in range(1, GROW + 1):
            yield ways + 1 + row + part / GROW, SHORT if part < GROW else 500
    yield ways + 1 + QUERIES, LONG


def main() -> None:
    """Draw both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--learner", default="emoji_5way_1shot", choices=pretrained.available())
    parser.add_argument("--task", type=int, default=22, help="which task of the test classes")
    parser.add_argument("--queries", type=int, nargs=QUERIES, default=[0, 4, 8])
    given = parser.parse_args()
    mpl.use("agg")
    in_color = given.learner.startswith("emoji")
    source = tasks.emoji("test", cross_artist=True) if in_color else tasks.glyphs("test")
    task = source.sampler(ways=5, shots=1, queries=3, seed=1)[given.task]
    told = answers(given.learner, task)
    moments = list(steps(task.ways))
    size = kilobytes(given.learner)
    frames = [frame(task, given.queries, told, step, size) for step, _ in moments]
    frames[-1].save(STATIC / "hero.png", optimize=True)
    times = [milliseconds for _, milliseconds in moments]
    moving = {"save_all": True, "append_images": frames[1:], "duration": times, "loop": 0}
    frames[0].save(STATIC / "hero.webp", quality=80, method=6, **moving)
    for name in ("hero.png", "hero.webp"):
        print(f"{STATIC / name}: {(STATIC / name).stat().st_size / 1000:.0f} kB")
    names = [task.tags["classes"][k] for k in range(task.ways)]
    print(names, told[given.queries].round(decimals=2).tolist())


if __name__ == "__main__":
    main()
