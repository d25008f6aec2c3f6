"""What the figure of accuracy and cost shows, and that its names can be read."""

import pytest

from metalearn_tut.nb import plots, plots_compact

POINTS = {"a": (10.0, 0.8), "b": (100.0, 0.9), "c": (110.0, 0.85), "d": (1000.0, 0.95)}


def drawn(points, front):
    """The axes of a figure, which is not shown."""
    with plots.figure(width=6.4, height=4.2) as ax:
        plots_compact.trade_off(ax, points, front, xlabel="bytes")
        ax.figure.draw_without_rendering()
        return ax


@pytest.fixture(autouse=True)
def backend():
    import matplotlib as mpl

    mpl.use("Agg")


def test_dots_are_filled_on_the_front_and_joined_by_steps():
    ax = drawn(POINTS, ["d", "a", "b"])
    *dots, steps = ax.lines
    for (name, point), dot in zip(POINTS.items(), dots, strict=True):
        assert tuple(float(v[0]) for v in dot.get_data()) == point
        assert dot.get_markerfacecolor() == ("white" if name == "c" else "black")
    assert list(zip(*steps.get_data(), strict=True)) == [POINTS[n] for n in "abd"]
    assert steps.get_drawstyle() == "steps-post" and ax.get_xscale() == "log"


@pytest.mark.parametrize("count", [3, 16])
def test_names_stand_apart_from_each_other_and_from_dots(count):
    from matplotlib.text import Text

    points = {f"learner{i}": (100.0 * 1.3 ** (i % 5), 0.8 + 0.007 * i) for i in range(count)}
    ax = drawn(points, list(points)[-1:])
    assert [text.get_text() for text in ax.texts] == list(points)
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    for i, box in enumerate(boxes):
        assert box.count_overlaps(boxes) == 1, ax.texts[i]  # itself
        assert not any(box.contains(x, y) for x, y in ax.transData.transform([*points.values()]))
        assert ax.texts[i].get_fontsize() >= 10
    for text, point in zip(ax.texts, points.values(), strict=True):
        assert text.xy == point


def test_a_name_with_room_around_it_stands_beside_its_dot_without_a_line():
    ax = drawn(POINTS, ["a"])
    lonely = ax.texts[0]
    assert lonely.get_text() == "a" and lonely.arrow_patch is None
    x, y = ax.transData.transform(POINTS["a"])
    box = lonely.get_window_extent()
    assert min(abs(box.x0 - x), abs(box.x1 - x)) < 15 and min(abs(box.y0 - y), abs(box.y1 - y)) < 15
