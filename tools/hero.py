"""The first picture of README and book: five drawings, a learner, and what it then recognizes.

    python tools/hero.py

Draws `book/_static/hero.webp`, which moves, and `book/_static/hero.png`, its last frame, from the
shipped emoji learner: the drawings are those of one task of held-out classes, queries by other
artists, and the bars are what the learner answers. `--task` chooses another task.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, FancyBboxPatch
from PIL import Image

from metalearn_tut import pretrained, tasks
from metalearn_tut.nb.plots import COLORS
from metalearn_tut.tasks.task import Task

mpl.use("agg")
import matplotlib.pyplot as plt

STATIC = Path(__file__).parents[1] / "book" / "_static"
LEARNER = "emoji_5way_1shot"
WIDTH, HEIGHT = 10.4, 4.5  # inches
QUERIES = 3
GROW = 5  # frames in which bars reach their length
SHORT, LONG = 70, 2500  # milliseconds
INK, PALE = "#22303c", "#8a97a3"


def answers(task: Task) -> torch.Tensor:
    """The learner's probabilities for each query of the task: ``[queries, ways]``."""
    predict = pretrained.load(LEARNER).adapt(task.support_x, task.support_y)
    return predict(task.query_x).softmax(-1).detach()


def frame(task: Task, shown: Sequence[int], told: torch.Tensor, step: float) -> Image.Image:
    """One picture.

    ``step`` up to the number of ways: so many support drawings are there; up to one more: the
    learner adapts; then the queries answer one after another.
    """
    fig = plt.figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    canvas = fig.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    canvas.axis("off")
    ways = task.ways
    kilobytes = round(pretrained.path(LEARNER).stat().st_size / 1000)
    _write(canvas, 0.35, 4.2, "five things it never saw, one drawing of each")
    _box(canvas, adapting=step > ways, kilobytes=kilobytes)
    for k in range(min(ways, int(step) + 1) if step < ways else ways):
        y = 3.35 - 0.8 * k
        _picture(fig, task.support_x[k], (0.35, y, 0.7), COLORS[k])
        _write(canvas, 1.25, y + 0.35, str(k + 1), color=COLORS[k], weight="bold", size=13)
        if step >= ways:
            _arrow(canvas, (1.55, y + 0.35), (3.2, 2.3 - 0.12 * k), COLORS[k])
    if step > ways + 1:
        _write(canvas, 5.9, 4.2, "somebody else's drawings of them")
    for row, q in enumerate(shown):
        grown = min(1.0, step - (ways + 1) - row)
        if grown <= 0:
            continue
        y = 2.95 - 1.3 * row
        _arrow(canvas, (5.05, 2.06), (5.85, y + 0.5), PALE)
        _picture(fig, task.query_x[q], (5.9, y, 1.0), "#c3ccd4")
        _bars(canvas, told[q] * grown, 7.25, y)
    return _image(fig)


def _write(ax: Axes, x: float, y: float, text: str, **style: object) -> None:
    ax.text(x, y, text, **{"color": INK, "size": 12, "va": "center", **style})


def _picture(fig: mpl.figure.Figure, image: torch.Tensor, at: Sequence[float], color: str) -> None:
    x, y, side = at
    ax = fig.add_axes((x / WIDTH, y / HEIGHT, side / WIDTH, side / HEIGHT))
    ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="lanczos")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(color=color, linewidth=2.5, visible=True)


def _box(ax: Axes, *, adapting: bool, kilobytes: int) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=0.12", "linewidth": 2}
    edge, face = (COLORS[0], "#e3eefa") if adapting else (PALE, "#f4f6f8")
    ax.add_patch(FancyBboxPatch((3.25, 1.3), 1.75, 1.5, edgecolor=edge, facecolor=face, **style))
    middle = {"ha": "center"}
    _write(ax, 4.12, 2.45, "learner", weight="bold", size=14, **middle)
    _write(ax, 4.12, 2.07, f"a file of {kilobytes} kB", **middle)
    if adapting:
        _write(ax, 4.12, 1.65, "two gradient steps", size=11, **middle)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    ax.add_patch(
        ConnectionPatch(start, end, "data", arrowstyle="-|>", color=color, mutation_scale=11)
    )


def _bars(ax: Axes, values: torch.Tensor, x: float, y: float) -> None:
    best = int(values.argmax())
    for k, value in enumerate(values.tolist()):
        at = y + 0.9 - 0.2 * k
        _write(ax, x - 0.13, at, str(k + 1), size=9, color=COLORS[k], ha="right")
        ax.barh(at, max(0.01, 2.3 * value), 0.14, x, color=COLORS[k], alpha=1 if k == best else 0.5)
        if k == best:
            _write(ax, x + 0.08 + 2.3 * value, at, f"{value:.0%}", weight="bold", color=COLORS[k])


def _image(fig: mpl.figure.Figure) -> Image.Image:
    data = io.BytesIO()
    fig.savefig(data, format="png", dpi=100)
    plt.close(fig)
    return Image.open(data).convert("RGB")


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
    parser.add_argument("--task", type=int, default=0, help="which task of the test classes")
    parser.add_argument("--queries", type=int, nargs=QUERIES, default=[0, 4, 8])
    given = parser.parse_args()
    source = tasks.emoji("test", cross_artist=True)
    task = source.sampler(ways=5, shots=1, queries=3, seed=1)[given.task]
    told = answers(task)
    moments = list(steps(task.ways))
    frames = [frame(task, given.queries, told, step) for step, _ in moments]
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
