"""Forest plots and schematics: the intervals by hand, and what is drawn where."""

import math
import statistics

import matplotlib.pyplot as plt
import pytest
import torch

from metalearn_tut.nb import forest, plots, schematic


def test_a_row_has_both_intervals():
    values = torch.rand(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = forest.row(values)
    means = values.mean(1).tolist()
    assert found.mean == pytest.approx(values.mean().item())
    assert found.over_tasks == pytest.approx(1.96 * values.flatten().std().item() / math.sqrt(200))
    right = 2.776 * statistics.stdev(means) / math.sqrt(5)  # Student's t, four degrees of freedom
    assert found.over_trainings == pytest.approx(right)
    assert str(found).endswith(f"± {right:.3f} over 5 trainings")


def test_one_training_has_no_interval_over_trainings():
    found = forest.row(torch.tensor([0.0, 1.0]))
    assert found.over_trainings == 0.0 and str(found) == "0.500 ± 0.980 over tasks"


def test_the_quantiles_are_students():
    """By integrating the density of Student's t numerically."""
    for n, quantile in forest.STUDENT.items():
        degrees = n - 1
        x = torch.linspace(0, quantile, 100_001, dtype=torch.float64)
        density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
        log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
        scale = math.exp(log_scale) / math.sqrt(degrees * math.pi)
        inside = 2 * scale * torch.trapezoid(density, x).item()
        assert inside == pytest.approx(0.95, abs=5e-5)


def test_bars_are_as_long_as_their_intervals():
    rows = {"a": forest.Row([0.4, 0.5, 0.6], 0.02), "b": forest.Row([0.3], 0.05)}
    with plots.figure() as ax:
        forest.draw(ax, rows, line=0.2)
        spans = [path.vertices[:, 0] for c in ax.collections for path in c.get_paths()]
        lengths = [span.max() - span.min() for span in spans]
        right = [0.04, 2 * rows["a"].over_trainings, 0.1]
        assert lengths == pytest.approx(right)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]


def test_a_sheet_holds_what_is_put_on_it():
    with schematic.sheet(4, 3) as ax:
        schematic.box(ax, 1, 1, 1, 0.5, "learn")
        schematic.arrow(ax, (1.5, 1), (2, 1), dashed=True, bend=0.2)
        schematic.picture(ax, torch.zeros(3, 8, 8, dtype=torch.uint8), 3, 1, side=0.5)
        schematic.picture(ax, torch.zeros(1, 8, 8), 3, 2)
        schematic.bars(ax, 1, 2, [0.7, 0.2, 0.1])
        schematic.scissors(ax, 1.7, 1)
        assert ax.get_xlim() == (0, 4) and ax.get_ylim() == (0, 3)
        assert ax.images[0].get_extent() == [2.75, 3.25, 0.75, 1.25]
        assert next(text.get_text() for text in ax.texts) == "learn"
        widths = [p.get_width() for c in ax.containers for p in c.patches]
        assert widths == pytest.approx([0.7, 0.2, 0.1])
    assert plt.get_fignums() == []


STUDY = {
    "done": 3,
    "total": 8,
    "rows": [
        {"arm": "a", "rival": "b", "split": "test", "verdict": "holds",
         "seeds": [0.1, 0.2, 0.3], "over_tasks": 0.02},
        {"arm": "a", "rival": "c", "split": "hard", "verdict": None, "bounds": [-0.01]},
        {"arm": "d", "rival": "b", "split": "test", "verdict": "does not hold",
         "seeds": [-0.2, -0.2], "over_tasks": 0.01},
    ],
}  # fmt: skip


def test_a_study_shows_its_verdicts_in_colors_and_what_still_runs():
    labels = {"a - c (hard)": "on hard ones", "d - b": "second", "a - b": "first"}
    with plots.figure() as ax:
        assert forest.study(ax, STUDY, labels) == "running: 3 of 8 jobs"
        assert [t.get_text() for t in ax.get_yticklabels()] == ["on hard ones", "second", "first"]
        at = {t.get_text(): t.xy[1] for t in ax.texts if t.get_text() == "running"}
        assert at == {"running": 0}
        dots = {line.get_ydata()[0]: line for line in ax.lines if line.get_marker() == "o"}
        assert dots[1].get_color() == plots.COLORS[1] and dots[2].get_color() == plots.COLORS[2]
        assert dots[2].get_xdata()[0] == pytest.approx(0.2)
        margins = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert [line.get_xdata()[0] for line in margins] == [-0.01]
        assert sum(margins[0].get_ydata()) == 0  # beside the first row
        low, high = ax.get_xlim()
        assert low < -0.2 and high > 0.2 + forest.Row([0.1, 0.2, 0.3], 0).over_trainings


def test_a_row_has_the_rivals_split_if_its_own_is_the_usual_one():
    rows = [{**STUDY["rows"][0], "rival": "a", "rival_split": split} for split in ("x", "y")]
    rows.append({**STUDY["rows"][1], "rival_split": "test"})
    labels = {"a - a (y)": "2nd", "a - a (x)": "1st", "a - c (hard)": "3rd"}
    with plots.figure() as ax:
        forest.study(ax, {**STUDY, "rows": rows}, labels)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["2nd", "1st", "3rd"]


def test_a_study_that_has_ended_says_so_and_one_without_numbers_can_be_drawn():
    with plots.figure() as ax:
        ended = {**STUDY, "done": 8}
        assert forest.study(ax, ended, {"a - b": "first"}) == "all jobs have ended"
    with plots.figure() as ax:
        forest.study(ax, STUDY, {"a - c (hard)": "still"})
        assert ax.get_xlim()[0] < 0 < ax.get_xlim()[1]
    with plots.figure() as ax, pytest.raises(KeyError, match="a - x"):
        forest.study(ax, STUDY, {"a - x": "none"})
