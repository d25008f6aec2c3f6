"""A figure that moves: frames over a drawn background, light, and still for whoever asks for it."""

from __future__ import annotations

import base64
import html
import importlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from metalearn_tut.nb.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Frame = Sequence[Sequence[Sequence[float]]]
_STYLE = """
.{n} .f {{ visibility: hidden; animation: {n}-f {total}s infinite; }}
.{n} .f:last-of-type {{ visibility: visible; animation-name: {n}-l; }}
@keyframes {n}-f {{ 0% {{ visibility: visible }} {one}%, 100% {{ visibility: hidden }} }}
@keyframes {n}-l {{ 0% {{ visibility: visible }} {last}%, 100% {{ visibility: hidden }} }}
.{n} input:checked ~ svg .f {{ animation-play-state: paused; }}
@media (prefers-reduced-motion: reduce) {{
  .{n} .f {{ animation: none !important; }}
  .{n} input, .{n} label {{ display: none; }}
}}"""


def show(
    ax: Axes,
    name: str,
    frames: Sequence[Frame],
    captions: Sequence[str],
    alt: str,
    *,
    seconds: float = 0.45,
) -> None:
    """Display what is drawn on ``ax`` with paths that move over it.

    It is one picture without a script: the background as PNG, the paths as SVG, shown in turn by
    CSS. A box pauses it. Who has asked their system for less motion sees the last frame, as do
    places that show no HTML.

    Parameters
    ----------
    ax : Axes
        The background; its figure has no other axes.
    name : str
        A word that no other figure of the page has.
    frames : sequence of frames
        Each a sequence of paths ``[K, 2]`` in data coordinates: hollow dot first, filled dot last.
    captions : sequence of str
        One for each frame, shown above it.
    alt : str
        What can be seen, in words.
    seconds : float, default 0.45
        Of each frame; the last is shown four times as long.
    """
    import matplotlib.pyplot as plt

    display = importlib.import_module("IPython.display").display  # which every notebook has

    if len(frames) != len(captions) or not frames:
        raise ValueError(f"{len(frames)} frames need as many captions, got {len(captions)}")
    figure = ax.figure
    figure.canvas.draw()
    figure.set_layout_engine("none")  # nothing moves when the last frame is drawn
    background = _png(figure)
    width, height = figure.canvas.get_width_height()
    groups = [
        _group(ax, frame, caption, height) for frame, caption in zip(frames, captions, strict=True)
    ]
    total = seconds * (len(frames) + 3)
    style = _STYLE.format(
        n=name, total=total, one=100 * seconds / total, last=400 * seconds / total
    )
    moved = "".join(
        f'<g class="f" style="animation-delay:{i * seconds - total:.2f}s">{group}</g>'
        for i, group in enumerate(groups)
    )
    page = (
        f'<div class="{name}"><style>{style}</style>'
        f'<input type="checkbox" id="{name}-pause"> <label for="{name}-pause">pause</label>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(alt)}"'
        f' style="width:100%;max-width:{width}px;background:white;display:block">'
        f'<image href="data:image/png;base64,{background}" width="{width}" height="{height}"/>'
        f"{moved}</svg></div>"
    )
    for i, path in enumerate(map(np.asarray, frames[-1])):
        color = COLORS[i % len(COLORS)]
        ax.plot(*path.T, "-", marker=".", color=color)
        ax.plot(*path[-1], "o", color=color)
    ax.set_title(captions[-1])
    display({"text/html": page, "image/png": _png(figure), "text/plain": alt}, raw=True)
    plt.close(figure)  # or it would be shown once more


def _png(figure: object) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")  # type: ignore[attr-defined]
    return base64.b64encode(file.getvalue()).decode()


def _group(ax: Axes, frame: Frame, caption: str, height: int) -> str:
    """The paths of one frame, and its caption, as SVG."""
    parts = []
    for i, path in enumerate(frame):
        x, y = ax.transData.transform(np.asarray(path)).T
        points = [f"{a:.1f},{height - b:.1f}" for a, b in zip(x, y, strict=True)]
        color = COLORS[i % len(COLORS)]
        line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}"'
        parts.append(f'{line} stroke-width="2.5"/>')
        for k, point in enumerate(points):
            radius = 6 if k == len(points) - 1 else 2.5
            at = 'cx="{}" cy="{}"'.format(*point.split(","))
            parts.append(f'<circle {at} r="{radius}" fill="{color}"/>')
    first = ax.transData.transform(np.asarray(frame[0][0]))
    parts.append(f'<circle cx="{first[0]:.1f}" cy="{height - first[1]:.1f}" r="7" fill="white"'
                 ' stroke="black" stroke-width="2"/>')  # fmt: skip
    left = ax.get_window_extent().x0
    style = 'font-family="DejaVu Sans, sans-serif" font-size="17" fill="#222"'
    parts.append(f'<text x="{left:.0f}" y="22" {style}>{html.escape(caption)}</text>')
    return "".join(parts)
