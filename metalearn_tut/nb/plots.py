"""Every figure style the book uses: one look, readable without color, closed when shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's colors, told apart by most color-blind readers, each with its own dash.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as many as colors: told apart without them
_STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.dpi": 110,
}


@contextmanager
def figure(
    columns: int = 1, *, rows: int = 1, width: float = 4.2, height: float = 3.2, **kwargs: Any
) -> Iterator[Any]:
    """Axes in the book's style; the figure is shown and closed when the block ends.

    Parameters
    ----------
    columns, rows : int
        Grid of axes. The block gets one ``Axes`` or an array of them.
    width, height : float
        Size of one panel in inches.
    **kwargs
        Passed to ``matplotlib.pyplot.subplots`` (``sharey=True`` ...).
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    cycle = mpl.cycler(color=COLORS) + mpl.cycler(linestyle=DASHES)
    with mpl.rc_context({**_STYLE, "axes.prop_cycle": cycle}):
        fig, axes = plt.subplots(
            rows, columns, figsize=(width * columns, height * rows), layout="constrained", **kwargs
        )
        yield axes
        plt.show()
        plt.close(fig)


def smooth(values: Sequence[float], window: int = 20) -> np.ndarray:
    """Running mean of the last ``window`` values (fewer at the start), for noisy curves.

    Examples
    --------
    >>> smooth([1.0, 3.0, 5.0], window=2).tolist()
    [1.0, 2.0, 4.0]
    """
    sums = np.cumsum(np.asarray(values, dtype=float))
    sums[window:] = sums[window:] - sums[:-window]
    return sums / np.minimum(np.arange(len(sums)) + 1, window)


def curves(
    ax: Axes,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> None:
    """One labeled line per entry, told apart by color and dash.

    Parameters
    ----------
    series : mapping of name to (x, y)
    xlabel, ylabel : str
        With units.
    log : bool, default False
        Logarithmic y-axis; otherwise it starts at zero if nothing is negative.
    """
    for name, (x, y) in series.items():
        ax.plot(np.asarray(x), np.asarray(y), label=name)
    if log:
        ax.set_yscale("log")
    elif min(np.min(np.asarray(y)) for _, y in series.values()) >= 0:
        ax.set_ylim(bottom=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()


def surface(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    levels: Sequence[float],
    paths: Sequence[Sequence[Sequence[float]]] = (),
) -> None:
    """A function of two parameters as labeled contours, and paths from hollow dot to filled dot.

    Parameters
    ----------
    x, y : [X], [Y]
        The grid.
    values : [Y, X]
        The function on it.
    levels : sequence of float
        Contours, the same for panels that are to be compared.
    paths : sequence of [K + 1, 2]
        Points ``(x, y)`` in order, drawn with a dot per step.
    """
    ax.contourf(x, y, values, levels=levels, cmap="Greys", alpha=0.5, extend="both")
    lines = ax.contour(x, y, values, levels=levels, colors="gray", linewidths=0.8)
    ax.clabel(lines, fontsize=9, colors="black")
    for i, path in enumerate(map(np.asarray, paths)):
        color = COLORS[i % len(COLORS)]
        ax.plot(*path.T, "-", marker=".", color=color)
        ax.plot(*path[-1], "o", color=color, markersize=8)
        ax.plot(*path[0], "o", color="black", markerfacecolor="white", markersize=9, zorder=3)
    ax.grid(False)


def image_rows(ax: Axes, rows: Mapping[str, Sequence[Any]]) -> None:
    """Images ``[n, 1, H, W]`` side by side, one labeled row per entry.

    Parameters
    ----------
    rows : mapping of label to images
        All rows with the same number of images.
    """
    stacked = [np.concatenate(list(np.asarray(images)[:, 0]), axis=1) for images in rows.values()]
    ax.imshow(np.concatenate(stacked), cmap="gray_r", interpolation="nearest")
    side = len(stacked[0])
    ax.set_yticks([side * (r + 0.5) for r in range(len(rows))], list(rows))
    ax.set_xticks([])
    ax.grid(False)


def coverage(
    ax: Axes, centers: Sequence[float], half_widths: Mapping[str, Sequence[float]], truth: float
) -> None:
    """Repeated intervals against the value that they should hold, one row per repetition.

    Parameters
    ----------
    centers : sequence [R]
        The estimate of each repetition.
    half_widths : mapping of name to sequence [R]
        Kinds of intervals around the same centers, drawn side by side.
    truth : float
        Drawn as a dashed line.
    """
    rows = np.arange(len(centers))
    for i, (name, half) in enumerate(half_widths.items()):
        style = {"fmt": "none", "elinewidth": 3.5 - 1.5 * i}  # told apart without color, too
        ax.errorbar(centers, rows + 0.35 * i, xerr=half, color=COLORS[i], label=name, **style)
    ax.axvline(truth, color="black", linestyle="--", linewidth=1.5)
    ax.set_yticks([])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=len(half_widths))


def ranked_losses(
    ax: Axes,
    steps: Sequence[int],
    losses: Sequence[Sequence[float]],
    marked: Sequence[Sequence[bool]],
    low: Sequence[float],
    high: Sequence[float],
) -> None:
    """The task losses of each step, some of them marked, and the band that was kept.

    Parameters
    ----------
    steps : sequence of int [S]
    losses : [S, T]
        One column of dots per step.
    marked : bool [S, T]
        Drawn as crosses; the tasks that were broken, for instance.
    low, high : [S]
        The band of each step.
    """
    losses, marked = np.asarray(losses), np.asarray(marked, dtype=bool)
    columns = np.broadcast_to(np.asarray(steps)[:, None], losses.shape)
    ax.fill_between(steps, low, high, step="mid", color="gray", alpha=0.3, label="kept")
    for where, style, name in ((marked, "x", "broken"), (~marked, "o", "sound")):
        color = COLORS[1] if name == "broken" else COLORS[0]
        ax.plot(columns[where], losses[where], style, color=color, markersize=4, label=name)
    ax.set_yscale("log")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def trade_off(
    ax: Axes,
    rows: Mapping[str, Mapping[str, float]],
    methods: Mapping[str, Sequence[str]],
    cost: str,
    front: Sequence[str],
    xlabel: str,
) -> None:
    """Accuracy against a cost: a mark for each method, and the Pareto front as steps.

    Parameters
    ----------
    rows : mapping of name to mapping
        ``accuracy`` and the cost.
    methods : mapping of method to names
        At most seven methods, told apart by color and mark.
    cost : str
        What the horizontal axis shows, on a logarithmic scale.
    front : sequence of str
        The names that no other makes needless: filled marks, joined by a line.
    xlabel : str
        The cost in words, with its unit.
    """
    if len(methods) > len(MARKERS):
        raise ValueError(f"trade_off has marks for at most 7 methods, got {len(methods)}")
    points = {name: (rows[name][cost], rows[name]["accuracy"]) for name in rows}
    steps = sorted(points[name] for name in front)
    ax.plot(*zip(*steps, strict=True), "-", drawstyle="steps-post", color="gray", zorder=1)
    for (method, names), color, marker in zip(methods.items(), COLORS, MARKERS, strict=False):
        style = {"marker": marker, "linestyle": "none", "color": color, "markersize": 8}
        for name in names:
            ax.plot(*points[name], **style, markerfacecolor=color if name in front else "none")
        ax.plot([], [], **style, label=method)
    ax.set(xscale="log", xlabel=xlabel, ylabel="accuracy")
    ax.tick_params(axis="x", which="minor", labelbottom=False)
    ax.margins(0.1)


def legend_below(axes: Sequence[Axes], columns: int) -> None:
    """One legend for panels that show the same, below all of them."""
    handles = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside lower center", ncols=columns)
