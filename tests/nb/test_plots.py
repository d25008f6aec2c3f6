"""The book's figures draw the numbers that they are given."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

from metalearn_tut.nb import plots

mpl.use("Agg")


@pytest.fixture
def ax(monkeypatch):
    """One axis in the book's style, looked at before it is closed."""
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    with plots.figure() as ax:
        yield ax


def test_curves_draw_each_series_under_its_name(ax):
    series = {"up": ([0, 1], [1.0, 3.0]), "down": ([0, 1], [2.0, 0.5])}
    plots.curves(ax, series, xlabel="steps", ylabel="loss")
    for line, (name, (x, y)) in zip(ax.lines, series.items(), strict=True):
        assert (line.get_label(), *map(list, line.get_data())) == (name, x, y)
    assert ax.get_ylim()[0] == 0
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 2


def test_curves_with_a_negative_number_or_a_logarithm_do_not_start_at_zero(ax):
    plots.curves(ax, {"a": ([0, 1], [-1.0, 1.0])}, xlabel="x", ylabel="y")
    assert ax.get_ylim()[0] < -1
    plots.curves(ax, {"b": ([0, 1], [1.0, 10.0])}, xlabel="x", ylabel="y", log=True)
    assert ax.get_yscale() == "log"


def test_surface_draws_contours_and_paths_from_start_to_end(ax):
    x, y = np.linspace(-1, 1, 21), np.linspace(-2, 2, 31)
    values = x[None] ** 2 + y[:, None] ** 2
    path = torch.tensor([[1.0, 0.5], [0.5, 0.2], [0.1, 0.0]])
    plots.surface(ax, x, y, values, levels=[0.5, 1.0], paths=[path])
    steps, end, start = ax.lines
    np.testing.assert_array_equal(np.transpose(steps.get_data()), path)
    assert [float(v[0]) for v in end.get_data()] == pytest.approx([0.1, 0.0])
    assert [float(v[0]) for v in start.get_data()] == pytest.approx([1.0, 0.5])
    on_contour = ax.collections[-1].get_paths()[0].vertices
    np.testing.assert_allclose((on_contour**2).sum(1), 0.5, atol=0.02)


def test_image_rows_puts_each_image_where_its_label_says(ax):
    images = torch.arange(2 * 3 * 4.0).reshape(2, 3, 1, 2, 2)
    plots.image_rows(ax, {"a": images[0], "b": images[1]})
    drawn = ax.images[0].get_array()
    assert drawn.shape == (4, 6)
    np.testing.assert_array_equal(drawn[2:, 4:], images[1, 2, 0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_yticks().tolist() == [1.0, 3.0]


def test_ranked_losses_marks_tasks_and_fills_the_kept_band(ax):
    losses = torch.tensor([[4.0, 1.0, 2.0], [0.5, 8.0, 1.0]])
    marked = losses > 3
    plots.ranked_losses(ax, [0, 5], losses, marked, low=[1.0, 0.5], high=[2.0, 1.0])
    broken, whole = ax.lines
    assert sorted(zip(*broken.get_data(), strict=True)) == [(0, 4.0), (5, 8.0)]
    assert sorted(zip(*whole.get_data(), strict=True)) == [(0, 1.0), (0, 2.0), (5, 0.5), (5, 1.0)]
    assert broken.get_marker() != whole.get_marker()
    (band,) = (collection.get_paths()[0] for collection in ax.collections)
    for x, y, inside in ((0, 1.5, True), (0, 2.5, False), (5, 0.7, True), (5, 1.5, False)):
        assert band.contains_point((x, y)) == inside
    assert ax.get_yscale() == "log"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["kept", "broken", "sound"]


ROWS = {
    "a": {"accuracy": 0.8, "bytes": 10.0},
    "b": {"accuracy": 0.9, "bytes": 100.0},
    "c": {"accuracy": 0.85, "bytes": 110.0},
    "d": {"accuracy": 0.95, "bytes": 1000.0},
}


def test_marks_are_filled_on_the_front_and_joined_by_steps(ax):
    plots.trade_off(ax, ROWS, {"narrow": "ab", "pruned": "cd"}, "bytes", ["d", "a", "b"], "kB")
    steps, *marks = (line for line in ax.lines if len(line.get_xdata()))
    points = {name: (row["bytes"], row["accuracy"]) for name, row in ROWS.items()}
    for (name, point), mark in zip(points.items(), marks, strict=True):
        assert tuple(float(v[0]) for v in mark.get_data()) == point
        fill = "none" if name == "c" else mark.get_color()
        assert mark.get_markerfacecolor() == fill
    assert list(zip(*steps.get_data(), strict=True)) == [points[n] for n in "abd"]
    assert steps.get_drawstyle() == "steps-post" and ax.get_xscale() == "log"
    assert ax.get_xlabel() == "kB"


def test_methods_are_told_apart_by_mark_and_color_and_named_once_below_all_panels(monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    methods = {str(i): [f"{i}0", f"{i}1"] for i in range(7)}
    rows = {f"{i}{j}": {"accuracy": 0.8 + j / 10, "s": 1.0 + i} for i in range(7) for j in (0, 1)}
    with plots.figure(columns=2) as axes:
        for ax in axes:
            plots.trade_off(ax, rows, methods, "s", ["01"], "seconds")
        plots.legend_below(axes, columns=4)
        (legend,) = axes[0].figure.legends
        axes[0].figure.draw_without_rendering()
        marks = [(h.get_marker(), h.get_color()) for h in legend.legend_handles]
        assert len({m for m, _ in marks}) == len({c for _, c in marks}) == 7
        assert [text.get_text() for text in legend.get_texts()] == list(methods)
        drawn = [line for line in axes[1].lines if line.get_marker() != "None"]
        assert [(m.get_marker(), m.get_color()) for m in drawn[::3]] == marks
        below = min(ax.get_window_extent().y0 for ax in axes)
        assert legend.get_window_extent().y1 <= below
        assert not any(ax.get_legend() for ax in axes)


def test_more_methods_than_marks_are_refused(ax):
    methods = {str(i): "a" for i in range(8)}
    with pytest.raises(ValueError, match="at most 7 methods, got 8"):
        plots.trade_off(ax, ROWS, methods, "bytes", ["a"], "kB")
