"""Characters drawn with the DejaVu fonts, each time a little differently."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metalearn_tut.tasks.sampler import raw_draws, unit

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SIZE = 28
PER_CLASS = 20
FACES = tuple(
    f"DejaVu{family}{style}"
    for family, slant in (("Sans", "Oblique"), ("Serif", "Italic"), ("SansMono", "Oblique"))
    for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
)
ASPECT = 0.12  # the most that the aspect of a rendering changes
EM = 96  # pixels per em of the masks that the renderings are made from
_FINE = 4  # the masks are posed on a grid this much finer than the image, then averaged
_MARGIN = 1.5  # pixels of the image to the border, before the stroke is thickened


class Face(NamedTuple):
    """One font: what draws it, and the code points that it contains."""

    font: ImageFont.FreeTypeFont
    codepoints: frozenset[int]


def font_files() -> list[Path]:
    """The 12 DejaVu text faces that matplotlib ships, regular faces of a family first."""
    import matplotlib

    return [Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf") for name in FACES]


@functools.cache
def faces() -> tuple[Face, ...]:
    """The faces, opened once per process."""
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    # The basic layout draws the code point itself; others would join Arabic letters.
    basic = ImageFont.Layout.BASIC
    return tuple(
        Face(
            ImageFont.truetype(str(file), EM, layout_engine=basic),
            frozenset(FT2Font(str(file)).get_charmap()),
        )
        for file in font_files()
    )


def faces_with(codepoint: int) -> list[Face]:
    """The faces that really contain this character."""
    return [face for face in faces() if codepoint in face.codepoints]


def ink(codepoint: int, face: Face) -> Image.Image:
    """The character as an 8-bit mask cut to its ink (255 on 0), at 96 pixels per em."""
    from PIL import Image

    core = face.font.getmask(chr(codepoint), mode="L")
    mask = Image.frombytes("L", core.size, bytes(core))
    return mask.crop(mask.getbbox())


def render_class(codepoint: int) -> np.ndarray:
    """The 20 images of a character's class, going round the faces that contain it.

    Parameters
    ----------
    codepoint : int
        A character that at least one face contains, with some ink.

    Returns
    -------
    uint8 array [20, 28, 28]
        Ink 255 on background 0.
    """
    masks = [ink(codepoint, face) for face in faces_with(codepoint)]
    # The key is far from the small seeds that people give to samplers.
    draws = [raw_draws(2**32 + codepoint, r, 7) for r in range(PER_CLASS)]
    jitters = [[2 * unit(draw) - 1 for draw in of_one] for of_one in draws]
    return np.stack([render(masks[r % len(masks)], jitter) for r, jitter in enumerate(jitters)])


def render_classes(codepoints: Sequence[int]) -> np.ndarray:
    """The images of all these classes, ``uint8 [20·n, 28, 28]``, with a progress bar."""
    from tqdm import tqdm

    images = np.empty((len(codepoints), PER_CLASS, SIZE, SIZE), dtype=np.uint8)
    what = "drawing glyphs (first use only)"
    bar = tqdm(codepoints, desc=what, unit=" classes", mininterval=1, leave=False)
    for i, codepoint in enumerate(bar):
        images[i] = render_class(codepoint)
    return images.reshape(-1, SIZE, SIZE)


def render(mask: Image.Image, jitter: Sequence[float]) -> np.ndarray:
    """One image ``[28, 28]`` of a mask, posed and inked by seven numbers in [-1, 1].

    They are, in order: rotation (up to 10 degrees), shear (0.15), aspect (12 %), size
    (the longer side fills 19 to 25 of the 28 pixels), horizontal and vertical shift (2
    pixels, less where the ink would leave the image) and stroke (a quarter of a pixel
    thinner to half a pixel thicker).
    """
    from PIL import Image

    (a, b, c, d), shift = _pose(mask.size, jitter)
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    width, height = mask.size
    x, y = _FINE * (SIZE / 2 + shift[0]), _FINE * (SIZE / 2 + shift[1])
    back = (a, b, width / 2 - a * x - b * y, c, d, height / 2 - c * x - d * y)
    grid = (_FINE * SIZE, _FINE * SIZE)
    fine = mask.transform(grid, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    fine = _change_stroke(fine, round(0.5 + 1.5 * jitter[6]))
    return np.asarray(fine.reduce(_FINE))


def _change_stroke(fine: Image.Image, steps: int) -> Image.Image:
    """Strokes ``steps`` pixels of the fine grid thicker (or thinner, where negative)."""
    from PIL import ImageChops

    grow = ImageChops.lighter if steps > 0 else ImageChops.darker
    for step in range(abs(steps)):
        by = 1 if step % 2 else -1  # to and fro, so that the ink stays where it is
        fine = grow(fine, ImageChops.offset(fine, by, 0))
        fine = grow(fine, ImageChops.offset(fine, 0, by))
    return fine


def _pose(
    size: tuple[int, int], jitter: Sequence[float]
) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    """The linear map (a, b; c, d) from mask to fine grid, and the shift in pixels of the image.

    Plain arithmetic only: sines and linear algebra libraries differ in the last bit from
    machine to machine.
    """
    rotation, shear, aspect, scale, *shift = jitter[:6]
    t = 0.0875 * rotation  # tan of half the angle
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    widen, slant = 1 + ASPECT * aspect, 0.15 * shear
    a, b, c, d = cos * widen, cos * slant - sin, sin * widen, sin * slant + cos
    extent = abs(a) * size[0] + abs(b) * size[1], abs(c) * size[0] + abs(d) * size[1]
    zoom = (22 + 3 * scale) / max(extent)
    dx = min((SIZE - zoom * extent[0]) / 2 - _MARGIN, 2) * shift[0]
    dy = min((SIZE - zoom * extent[1]) / 2 - _MARGIN, 2) * shift[1]
    zoom *= _FINE
    return (zoom * a, zoom * b, zoom * c, zoom * d), (dx, dy)
