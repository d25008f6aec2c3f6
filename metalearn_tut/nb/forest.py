"""A forest plot: an effect a row, with what other tasks and what other trainings would change."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from metalearn_tut.evaluation import interval
from metalearn_tut.nb.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# 97.5 % points of Student's t, by the number of trainings.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262, 12: 2.201}


@dataclass(frozen=True)
class Row:
    """A number for each training, and the half-width of the interval over their test tasks."""

    trainings: Sequence[float]
    over_tasks: float

    @property
    def mean(self) -> float:
        """Mean over trainings."""
        return statistics.fmean(self.trainings)

    @property
    def over_trainings(self) -> float:
        """Half-width of the 95 % interval over trainings, by Student's t; of one, 0."""
        n = len(self.trainings)
        return STUDENT[n] * statistics.stdev(self.trainings) / math.sqrt(n) if n > 1 else 0.0

    def __str__(self) -> str:
        shown = f"{self.mean:.3f} ± {self.over_tasks:.3f} over tasks"
        n = len(self.trainings)
        return shown + (f", ± {self.over_trainings:.3f} over {n} trainings" if n > 1 else "")


def row(values: Tensor) -> Row:
    """Of one number for each test task ``[n]``, or for each training and task ``[trainings, n]``.

    Examples
    --------
    >>> import torch
    >>> print(row(torch.tensor([[0.5, 0.7], [0.9, 0.9], [0.2, 0.4]])))
    0.600 ± 0.226 over tasks, ± 0.745 over 3 trainings
    """
    values = values.reshape(-1, values.shape[-1]).double()
    return Row(values.mean(1).tolist(), interval(values.flatten())[1])


def draw(
    ax: Axes, rows: Mapping[str, Row], *, line: float | None = None, colors: Sequence[int] = ()
) -> None:
    """One row per entry: a thick bar over trainings, a thin one over tasks, a tick per training.

    Parameters
    ----------
    rows : mapping of name to Row
        Drawn from top to bottom.
    line : float, optional
        Where nothing is gained: chance, or a difference of 0.
    colors : sequence of int, optional
        Of each row, a number in ``plots.COLORS``; all alike by default.
    """
    for i, found in enumerate(rows.values()):
        color = COLORS[colors[i] if colors else 0]
        ends = {"color": color, "fmt": "none"}
        ax.errorbar(found.mean, i, xerr=found.over_tasks, elinewidth=1.5, capsize=5, **ends)
        if len(found.trainings) > 1:
            ax.errorbar(found.mean, i, xerr=found.over_trainings, elinewidth=6, alpha=0.45, **ends)
            ax.plot(found.trainings, [i + 0.3] * len(found.trainings), "|", color="black", ms=8)
        ax.plot(found.mean, i, "o", color=color, markersize=7)
        ax.annotate(f"{found.mean:.3f}", (found.mean, i), (0, 9), textcoords="offset points",
                    ha="center", fontsize=11)  # fmt: skip
    if line is not None:
        ax.axvline(line, color="black", linestyle=":", linewidth=1.5)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


VERDICTS = {"holds": 2, "does not hold": 1, "not decided": 6, None: 5}  # numbers of colors


def study(ax: Axes, found: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Some comparisons of a recorded study, colored by verdict, margins as dashes.

    Parameters
    ----------
    found : mapping
        Of :func:`metalearn_tut.nb.recorded.study`.
    labels : mapping of str to str
        From ``"arm - rival"``, with ``" (split)"`` unless that is ``test`` (then the rival's, if
        it has another), to what is written beside the row; rows are drawn in this order.

    Returns
    -------
    str
        How far the study is.

    Raises
    ------
    KeyError
        If the study has no such comparison.
    """
    rows = {_named(row): row for row in found["rows"]}
    chosen = {label: rows[name] for name, label in labels.items()}
    known = {n: Row(r["seeds"], r["over_tasks"]) for n, r in chosen.items() if "seeds" in r}
    drawn = {n: known.get(n, Row([math.nan], math.nan)) for n in chosen}
    draw(ax, drawn, line=0.0, colors=[VERDICTS[r["verdict"]] for r in chosen.values()])
    for i, (name, row) in enumerate(chosen.items()):
        for bound in row.get("bounds", ()):
            ax.plot([bound] * 2, [i - 0.35, i + 0.35], "--", color="black", linewidth=1.5)
        if name not in known:
            ax.annotate("running", (0, i), (9, 0), textcoords="offset points", va="center")
    ax.set(xlabel="difference in accuracy")
    ax.set_xlim(*_around(list(known.values())))
    done = found["done"] == found["total"]
    return "all jobs have ended" if done else f"running: {found['done']} of {found['total']} jobs"


def _named(row: Mapping[str, Any]) -> str:
    split = row["split"] if row["split"] != "test" else row.get("rival_split", "")
    split = f" ({split})" if split else ""
    return f"{row['arm']} - {row['rival']}{split}"


def _around(rows: Sequence[Row]) -> tuple[float, float]:
    """Limits that show all intervals and 0."""
    ends = [0.0, 0.05, -0.05]
    for row in rows:
        half = max(row.over_trainings, row.over_tasks)
        ends += [row.mean - half, row.mean + half, *row.trainings]
    room = 0.05 * (max(ends) - min(ends))
    return min(ends) - room, max(ends) + room
