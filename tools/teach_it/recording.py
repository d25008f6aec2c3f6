"""Record the demo of "Teach it five things": ``python tools/teach_it/recording.py``.

Needs chromium and chromedriver. The recording is for browsers that cannot run the demo. What the
bars in it say is what the learner said.
"""

from __future__ import annotations

import base64
import io
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import browser
from PIL import Image
from selenium import webdriver
from teach_it import alone, learners

from metalearn_tut.files.cache import atomic_write

FILE = alone.BOOK / "_extra/teach/recording.webp"
STILL = FILE.with_name("recording_still.webp")  # for those who asked that nothing moves
MOST = 1_000_000  # bytes
WIDTH = 720  # px
FRAME, LAST = 90, 4000  # ms
Stroke = tuple[str, float, list[tuple[float, float]]]  # color, width, points


def circle(x: float, y: float, radius: float, turn: float = 1.0, n: int = 16) -> list:
    """Points on a circle, or on the part of it that ends after ``turn`` turns."""
    angles = [2 * math.pi * turn * i / n for i in range(n + 1)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def sun(at: float = 0.0) -> list[Stroke]:
    """A sun, moved and turned a little."""
    x, y = 0.5 + at, 0.5 - at
    rays = [2 * math.pi * (i + 5 * at) / 8 for i in range(8)]
    ends = [[(x + r * math.cos(a), y + r * math.sin(a)) for r in (0.3, 0.42)] for a in rays]
    disk: Stroke = ("#f08c1a", 0.2, circle(x, y, 0.1))
    return [disk, *(("#f08c1a", 0.07, end) for end in ends)]


HOUSE = [(0.2, 0.85), (0.2, 0.45), (0.5, 0.15), (0.8, 0.45), (0.8, 0.85), (0.2, 0.85)]
FISH = [(0.9, 0.3), (0.3, 0.7), (0.1, 0.5), (0.3, 0.3), (0.9, 0.7), (0.9, 0.3)]
DRAWN: list[list[Stroke]] = [
    sun(),
    [("#8a5a2b", 0.1, [(0.5, 0.9), (0.5, 0.55)]), ("#2f9e44", 0.3, circle(0.5, 0.35, 0.13))],
    [("#d62828", 0.08, HOUSE), ("#1a1a1a", 0.1, [(0.5, 0.82), (0.5, 0.65)])],
    [("#2374d8", 0.09, FISH)],
    [
        ("#8e44ad", 0.07, circle(0.5, 0.5, 0.38)),
        ("#8e44ad", 0.1, [(0.37, 0.4), (0.37, 0.42)]),
        ("#8e44ad", 0.1, [(0.63, 0.4), (0.63, 0.42)]),
        ("#8e44ad", 0.07, circle(0.5, 0.52, 0.2, turn=0.5)),
    ],
    sun(at=0.05),
]


BOX = """
const { x, y, width, height } = document.querySelector(".teach-board").getBoundingClientRect();
return { x: x - 10, y: y - 10, width: width + 20, height: height + 20, scale: 1 };
"""
BEGIN = """
const [square, [x, y], color, width] = arguments;
Teach.app.squares[square].begin(x, y, { color, width });
"""
MOVE = "Teach.app.squares[arguments[0]].move(...arguments[1]);"
# No cursor; and the milliseconds of the machine that records say nothing about a reader's.
QUIET = """
document.activeElement.blur();
document.querySelector(".teach-time").hidden = true;
"""
END = "Teach.app.squares[arguments[0]].end();"


def frames(driver: webdriver.Chrome) -> Iterator[Image.Image]:
    """Pictures of the board while it is drawn on."""
    clip = driver.execute_script(BOX)
    for square, strokes in enumerate(DRAWN):
        for color, width, points in strokes:
            driver.execute_script(BEGIN, square, points[0], color, width)
            for i, point in enumerate(points[1:], start=1):
                driver.execute_script(MOVE, square, point)
                if i % 4 == 0:
                    yield picture(driver, clip)
            driver.execute_script(END, square)
            alone.wait(driver, "!Teach.app.busy()")
            yield picture(driver, clip)


def picture(driver: webdriver.Chrome, clip: dict[str, float]) -> Image.Image:
    """What a part of the page looks like now."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def recorded() -> list[Image.Image]:
    """The whole recording."""
    with tempfile.TemporaryDirectory() as folder, browser.browser() as driver:
        browser.resize(driver, WIDTH)
        browser.visit(driver, alone.write(Path(folder)).as_uri())
        alone.ready(driver)
        alone.start(driver, learners.shown()[0]["name"])
        alone.press(driver, "wipe")
        driver.execute_script(QUIET)
        return [*frames(driver)]


def main() -> None:
    """Record it, and write an animation that ends at the answer."""
    images = recorded()
    file = io.BytesIO()
    times = [FRAME] * (len(images) - 1) + [LAST]
    how = {"save_all": True, "append_images": images[1:], "duration": times, "loop": 0}
    images[0].save(file, "webp", quality=70, method=4, **how)
    if (size := len(file.getvalue())) > MOST:
        raise SystemExit(f"the recording must not exceed {MOST:,} bytes, got {size:,}")
    with atomic_write(FILE) as temporary:
        temporary.write_bytes(file.getvalue())
    images[-1].save(STILL, "webp", quality=80)
    print(f"{FILE}: {len(images)} pictures, {size:,} bytes")


if __name__ == "__main__":
    main()
