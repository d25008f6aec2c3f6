"""The figure of what accuracy costs: many learners, their names, and which of them are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import cos, pi, sin
from typing import TYPE_CHECKING

from metalearn_tut.nb.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 7  # points from a dot to a name that needs no line
# Eighths of a circle: the front's steps are below it and to its right, other dots are there, too.
ABOVE, BELOW = (3, 2, 4, 1, 0, 5, 6, 7), (0, 7, 6, 5, 1, 4, 2, 3)


def trade_off(
    ax: Axes, points: Mapping[str, tuple[float, float]], front: Sequence[str], *, xlabel: str
) -> None:
    """Accuracy against a cost, with names beside the points and the Pareto front as steps.

    Parameters
    ----------
    points : mapping of name to (cost, accuracy)
    front : sequence of str
        The names that no other makes needless: filled dots, joined by a line.
    xlabel : str
        The cost, with its unit; its axis is logarithmic.
    """
    for name, point in points.items():
        fill = "black" if name in front else "white"
        ax.plot(*point, "o", color="black", markerfacecolor=fill, markersize=7, zorder=3)
    steps = sorted(points[name] for name in front)
    ax.plot(*zip(*steps, strict=True), "-", drawstyle="steps-post", color=COLORS[0], zorder=1)
    ax.set(xscale="log", xlabel=xlabel, ylabel="accuracy")
    ax.margins(0.12)
    _name(ax, points, front)


def _name(ax: Axes, points: Mapping[str, tuple[float, float]], front: Sequence[str]) -> None:
    """Each name as near to its dot as others leave room, with a line to it if that is not near."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()  # before, nobody knows how many pixels a text covers
    taken = [
        Bbox.from_extents(x - 6, y - 6, x + 6, y + 6)
        for x, y in ax.transData.transform(list(points.values()))
    ]
    for name, point in points.items():
        turns = ABOVE if name in front else BELOW
        for far, turn in product((NEAR, 16, 28, 40), turns):
            x, y = far * cos(turn * pi / 4), far * sin(turn * pi / 4)
            text = ax.annotate(
                name,
                point,
                (x, y),
                textcoords="offset points",
                ha="center" if abs(x) < 1 else "left" if x > 0 else "right",
                va="center" if abs(y) < 1 else "bottom" if y > 0 else "top",
                fontsize=10,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
                arrowprops={"arrowstyle": "-", "linewidth": 0.6} if far > NEAR else None,
            )
            text.set_in_layout(False)  # else it would move the axes, and all that was measured
            text.get_window_extent()  # before, the text is not at its place
            box = Text.get_window_extent(text)  # without the line
            room = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1
            if room and not box.count_overlaps(taken):
                break
            if (far, turn) != (40, turns[-1]):  # where nothing is free the last place must do
                text.remove()
        taken.append(box)
