"""Schematics in the style of the book: boxes, arrows and small pictures on one sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from metalearn_tut.nb.plots import COLORS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PAPER = "#333333", "#eef4fb"


@contextmanager
def sheet(width: float, height: float) -> Iterator[Axes]:
    """An empty sheet of this many inches; coordinates are inches from its lower left corner."""
    with figure(width=width, height=height) as ax:
        ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        ax.set_axis_off()
        yield ax


def text(ax: Axes, x: float, y: float, words: str, **style: Any) -> None:
    """Words around a point; ``ha="left"`` to let them start there."""
    style = {"ha": "center", "va": "center", "color": INK, "fontsize": 14} | style
    ax.text(x, y, words, **style)


def box(
    ax: Axes, x: float, y: float, width: float, height: float, words: str = "", color: int = 0
) -> None:
    """A rounded box around ``(x, y)`` with words in it; ``color`` counts in ``plots.COLORS``."""
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2 + 0.06, y - height / 2 + 0.06)
    style = {"boxstyle": "round,pad=0.06", "facecolor": PAPER, "edgecolor": COLORS[color]}
    ax.add_patch(FancyBboxPatch(corner, width - 0.12, height - 0.12, linewidth=2, **style))
    text(ax, x, y, words)


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = INK,
    dashed: bool = False,
    bend: float = 0.0,
) -> None:
    """An arrow from a point to another; ``bend`` makes it an arc."""
    style = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
    style |= {"connectionstyle": f"arc3,rad={bend}", "linestyle": "--" if dashed else "-"}
    ax.annotate("", end, start, arrowprops={**style, "color": color, "linewidth": 1.8})


def picture(
    ax: Axes, image: Any, x: float, y: float, side: float = 0.6, color: str = "#bbbbbb"
) -> None:
    """A small image ``[C, H, W]`` around ``(x, y)`` in a frame; one channel is drawn as ink."""
    from matplotlib.patches import Rectangle

    pixels = np.moveaxis(np.asarray(image), 0, -1)
    left, low = x - side / 2, y - side / 2
    extent = (left, left + side, low, low + side)
    ax.imshow(pixels.squeeze(), cmap="gray_r", extent=extent, interpolation="antialiased")
    frame = {"facecolor": "none", "edgecolor": color, "linewidth": 2}
    ax.add_patch(Rectangle((left, low), side, side, **frame))


def bars(
    ax: Axes, x: float, y: float, shares: Sequence[float], width: float = 1.0, height: float = 0.6
) -> None:
    """Probabilities as horizontal bars, each in the color of its class, the first one on top."""
    thick = height / len(shares)
    for i, share in enumerate(shares):
        middle = y + height / 2 - (i + 0.5) * thick
        ax.barh(middle, max(share * width, 0.02), 0.75 * thick, left=x, color=COLORS[i])


def scissors(ax: Axes, x: float, y: float, size: float = 0.34) -> None:
    """A pair of scissors that cuts whatever runs through ``(x, y)`` from side to side."""
    color, half = COLORS[1], size / 2
    for side in (-1, 1):
        ax.plot([x - side * half * 0.45, x + side * half * 0.55], [y - half, y + half], "-", lw=2.2)
        ax.lines[-1].set_color(color)
        ring = {"markersize": 7, "markerfacecolor": "white", "markeredgewidth": 2}
        ax.plot(x - side * half * 0.65, y - half * 1.35, "o", color=color, **ring)
