"""A figure that moves: its frames are where the data is, and it stands still on request."""

import base64
import re

import pytest

from metalearn_tut.nb import motion, plots

notebook = pytest.importorskip("IPython.display")
PATHS = [[[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [4.0, 1.0]]]
LATER = [[[1.0, 1.0], [2.0, 3.0]], [[1.0, 1.0], [3.0, 2.0]]]


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, and where the axes' points lie in it."""
    found = {}
    monkeypatch.setattr(notebook, "display", lambda data, raw: found.update(data))
    with plots.figure(width=4, height=3) as ax:
        ax.set(xlim=(0, 4), ylim=(0, 3))
        motion.show(ax, "walk", [PATHS, LATER], ["first", "a < b"], "Two <paths>.", seconds=0.5)
        height = ax.figure.canvas.get_width_height()[1]
        found["at"] = lambda x, y: (
            ax.transData.transform((x, y))[0],
            height - ax.transData.transform((x, y))[1],
        )
        yield found


def test_every_frame_has_its_paths_where_the_data_is(shown):
    lines = re.findall(r'<polyline points="([^"]+)"', shown["text/html"])
    assert len(lines) == 4
    for line, path in zip(lines, [*PATHS, *LATER], strict=True):
        points = [tuple(map(float, pair.split(","))) for pair in line.split()]
        for point, (x, y) in zip(points, path, strict=True):
            assert point == pytest.approx(shown["at"](x, y), abs=0.06)


def test_it_says_what_it_shows_and_can_be_paused(shown):
    page = shown["text/html"]
    assert 'role="img" aria-label="Two &lt;paths&gt;."' in page
    assert ">a &lt; b</text>" in page and "<script" not in page
    assert '<label for="walk-pause">' in page and 'id="walk-pause"' in page
    assert "input:checked ~ svg .f { animation-play-state: paused; }" in page


def test_who_wants_less_motion_sees_the_last_frame(shown):
    page = shown["text/html"]
    calm = page[page.index("prefers-reduced-motion: reduce") :]
    assert ".f { animation: none !important; }" in calm
    assert ".f:last-of-type { visibility: visible;" in page  # where nothing is animated


def test_the_last_frame_is_shown_four_times_as_long(shown):
    assert "animation: walk-f 2.5s infinite" in shown["text/html"]
    assert re.findall(r"animation-delay:(\S+)s", shown["text/html"]) == ["-2.50", "-2.00"]
    assert "{ visibility: visible } 20.0%" in shown["text/html"]
    assert "{ visibility: visible } 80.0%" in shown["text/html"]


def test_there_is_a_still_and_it_is_light(shown):
    assert base64.b64decode(shown["image/png"])[:4] == b"\x89PNG"
    assert len(shown["text/html"]) < 200_000 and shown["text/plain"] == "Two <paths>."


def test_frames_and_captions_go_together():
    with plots.figure() as ax, pytest.raises(ValueError, match="2 frames need as many captions"):
        motion.show(ax, "walk", [PATHS, LATER], ["first"], "Two paths.")
