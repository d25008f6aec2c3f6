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
