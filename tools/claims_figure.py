"""The figures of the page about the claims, drawn when the book is built."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from metalearn_tut.claims.report import Finding
from metalearn_tut.claims.statistics import FAILS, HOLDS, OPEN
from metalearn_tut.claims.study import Claim

LOOKS = {HOLDS: (2, "o"), FAILS: (1, "s"), OPEN: (6, "D"), None: (6, "|")}  # color and marker


class Row(NamedTuple):
    """A line of a forest plot: what is said beside it, and what is known."""

    label: str
    finding: Finding


def forest(rows: Sequence[Row]) -> str:
    """Each claim's effect in points with both intervals, as the address of an image it holds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from metalearn_tut.nb import plots

    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        with plots.figure(width=7.5, height=0.6 * len(rows) + 1.1) as ax:
            draw(ax, rows)
            ax.figure.savefig(image, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()


def draw(ax: Any, rows: Sequence[Row]) -> None:
    """Thick lines for the interval over trainings, thin over tasks, dashes for the margin."""
    from metalearn_tut.nb.plots import COLORS

    for place, (_, finding) in enumerate(rows):
        effect, claim = finding.effect, finding.of
        if effect is None:
            continue
        color, marker = LOOKS[finding.verdict]
        look = {"color": COLORS[color], "linestyle": "-"}
        mean = 100 * effect.mean
        for half, width, alpha in ((effect.over_seeds, 6.0, 0.45), (effect.over_tasks, 1.5, 1.0)):
            ends = [mean - 100 * half, mean + 100 * half]
            ax.plot(ends, [place, place], linewidth=width, alpha=alpha, **look)
        ax.plot([mean], [place], marker=marker, markersize=8, markeredgecolor="white", **look)
        for bound in bounds(claim):
            ends = [place - 0.35, place + 0.35]
            ax.plot([100 * bound] * 2, ends, color="black", linestyle="--", linewidth=1.5)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(rows)), [row.label for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("points of accuracy: arm − rival")
    ax.grid(axis="y", visible=False)


def bounds(claim: Any) -> list[float]:
    """Where the margin of a claim lies."""
    if not isinstance(claim, Claim) or claim.margin == 0:
        return []
    return {
        "superior": [claim.margin],
        "non-inferior": [-claim.margin],
        "equivalent": [-claim.margin, claim.margin],
    }[claim.kind]
