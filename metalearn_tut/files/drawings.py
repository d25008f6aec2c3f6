"""Drawings on plain ground, of any size, as the small squares that shipped learners know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_PLAIN = 32  # levels that plain ground may differ by, as paper does under a lamp
_INK = 48  # levels from the ground on which a pixel belongs to the drawing
_COLOR = 48  # levels between the strongest and the weakest of red, green and blue
_FINE = 8  # pixels of the grid that ink is thickened on, for each of the result's
_FILL = {1: 22 / 28, 3: 30 / 32}  # of the side, what training images fill
_STROKE = 2.0  # pixels of the result that a line is at least wide


def ground(image: Image) -> np.ndarray:
    """The color of what a drawing is on, ``uint8 [3]``: the median of the picture's rim."""
    return np.median(_rim(image), 0).astype(np.uint8)


def is_plain(image: Image) -> bool:
    """Whether three quarters of the rim have one color: a drawing's, but not a photograph's."""
    off = np.abs(_rim(image).astype(int) - ground(image)).max(1)
    return bool((off <= _PLAIN).mean() >= 0.75)


def is_colored(image: Image) -> bool:
    """Whether a tenth of what is drawn, at least, is neither black nor gray nor white."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    drawn = pixels[_drawn(image)]
    return bool(len(drawn) and ((drawn.max(1) - drawn.min(1)) > _COLOR).mean() >= 0.1)


def ink_square(image: Image, size: int) -> np.ndarray:
    """A drawing in ink, ``uint8 [1, size, size]``: ink 255 on 0, in the middle, as glyphs are.

    What is darker than the ground is ink, and on dark ground what is lighter. Its longer side
    is brought to eleven fourteenths of ``size``, lines that would be thinner than two pixels are
    thickened, and the strongest ink becomes 255.
    """
    from PIL import Image as pillow
    from PIL import ImageFilter

    light = np.asarray(image.convert("L")).astype(int)
    ink = np.abs(light - int(np.median(_edge(light))))
    low, high = 0.2 * ink.max(), 0.8 * ink.max()  # shadows of paper below, all of a line above
    ink = np.clip((ink - low) / max(high - low, 1), 0, 1)
    mask = pillow.fromarray(np.rint(255 * ink).astype(np.uint8))
    fine = _placed(mask, mask.getbbox(), size * _FINE, _FILL[1], 0)
    if (more := round(_STROKE * _FINE - _stroke(np.asarray(fine)))) > 1:
        fine = fine.filter(ImageFilter.MaxFilter(2 * (more // 2) + 1))
    small = np.asarray(fine.reduce(_FINE)).astype(float)
    return np.rint(small * (255 / max(small.max(), 1))).astype(np.uint8)[None]


def color_square(image: Image, size: int) -> np.ndarray:
    """A drawing in color, ``uint8 [3, size, size]``: in the middle of its ground, as emoji are."""
    picture, paper = image.convert("RGB"), tuple(ground(image).tolist())
    rows, columns = (np.flatnonzero(_drawn(image).any(axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else None
    square = _placed(picture, box, size, _FILL[3], paper)
    return np.asarray(square).transpose(2, 0, 1)


def _placed(
    image: Image, box: tuple[int, int, int, int] | None, side: int, fill: float, paper: object
) -> Image:
    """What is in the box, its longer side ``fill`` of the square whose middle it is in."""
    from PIL import Image as pillow

    square = pillow.new(image.mode, (side, side), paper)
    if box is None:
        return square
    part = image.crop(tuple(int(v) for v in box))
    zoom = fill * side / max(part.size)
    width, height = (max(1, round(zoom * length)) for length in part.size)
    part = part.resize((width, height), pillow.Resampling.LANCZOS)
    square.paste(part, ((side - width) // 2, (side - height) // 2))
    return square


def _stroke(ink: np.ndarray) -> float:
    """How wide lines are, in pixels: twice the area by the length of its rim."""
    on = np.pad(ink > 127, 1)
    inside = on[1:-1, :-2] & on[1:-1, 2:] & on[:-2, 1:-1] & on[2:, 1:-1] & on[1:-1, 1:-1]
    area = on.sum()
    return 2 * area / max(area - inside.sum(), 1)


def _drawn(image: Image) -> np.ndarray:
    """Which pixels are not ground, ``bool [H, W]``."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.abs(pixels - ground(image)).max(2) > _INK


def _rim(image: Image) -> np.ndarray:
    """The pixels of the outer three hundredths on each side, ``[P, 3]``."""
    return _edge(np.asarray(image.convert("RGB")))


def _edge(pixels: np.ndarray) -> np.ndarray:
    """The same of pixels ``[H, W, ...]``."""
    wide = max(1, round(0.03 * min(pixels.shape[:2])))
    inner = np.ones(pixels.shape[:2], bool)
    inner[wide:-wide, wide:-wide] = False
    return pixels[inner]
