"""The figure of the page about speed, drawn when the book is built."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping
from typing import Any

from benchmarks_text import PEERS

Ratios = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By case and peer: ``of_medians``, ``least`` and ``most`` of the rounds."""


def bars(ratios: Ratios, goal: float) -> str:
    """A bar for each case and peer, as the address of an image that it holds itself."""
    import matplotlib as mpl

    mpl.use("Agg")
    from metalearn_tut.nb import plots

    image, height = io.BytesIO(), 0.55 * len(ratios) + 1.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        with plots.figure(width=7.5, height=height) as ax:
            draw(ax, ratios, goal)
            ax.figure.savefig(image, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()


def draw(ax: Any, ratios: Ratios, goal: float) -> None:
    """Horizontal bars in groups, the first case on top; a line on each for the spread."""
    from metalearn_tut.nb.plots import COLORS

    thickness = 0.8 / len(PEERS)
    for i, (peer, (title, color)) in enumerate(PEERS.items()):
        rows = [row for row, case in enumerate(ratios.values()) if peer in case]
        found = [case[peer] for case in ratios.values() if peer in case]
        middle = [each["of_medians"] for each in found]
        down = [max(each["of_medians"] - each["least"], 0) for each in found]
        up = [max(each["most"] - each["of_medians"], 0) for each in found]
        ax.barh(
            [row + (i - 1) * thickness for row in rows],
            middle,
            thickness,
            xerr=(down, up),
            color=COLORS[color],
            hatch=("", "//", "..")[i],
            edgecolor="white",
            ecolor="black",
            capsize=2,
            label=title.strip("`"),
        )
    ax.axvline(1, color="black", linewidth=1)
    ax.axvline(goal, color="black", linestyle="--", linewidth=1.5)
    ax.set_yticks(range(len(ratios)), list(ratios))
    ax.invert_yaxis()
    ax.set_xlabel("time of the peer / time of this package")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(PEERS))
