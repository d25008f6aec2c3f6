"""From an icon of a package to 32 x 32 pixels, the same on every machine."""

from __future__ import annotations

import io
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

RENDERER = "0.5.0"  # of resvg-py
SIZE = 32
_FINE = 4  # drawn this much finer, then averaged
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'width="{side}" height="{side}" viewBox="{box}">{body}</svg>'
)


def draw(icons: dict[str, Any], name: str) -> np.ndarray:
    """One icon of a set on white, ``uint8 [3, 32, 32]``, in the box that its artist drew it in.

    Drawn at 128 pixels; each pixel of the result is the mean of 4 x 4, in whole numbers.
    """
    resvg = _renderer()
    side = SIZE * _FINE
    svg = _SVG.format(side=side, box=_box(icons, name), body=icons["icons"][name]["body"])
    picture = Image.open(io.BytesIO(bytes(resvg.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    rgba = np.asarray(picture, dtype=np.int64)  # [128, 128, 4]
    color, opacity = rgba[..., :3], rgba[..., 3:]
    on_white = color * opacity + 255 * (255 - opacity)  # in 0..255·255
    blocks = on_white.reshape(SIZE, _FINE, SIZE, _FINE, 3).sum(axis=(1, 3))
    whole = 255 * _FINE * _FINE
    return ((blocks + whole // 2) // whole).astype(np.uint8).transpose(2, 0, 1)


def _renderer() -> Any:
    """The renderer, which this tool alone needs: no dependency of the project."""
    if (found := version("resvg-py")) != RENDERER:
        raise ValueError(f"the sheet is drawn by resvg-py {RENDERER}, got {found}")
    return import_module("resvg_py")


def _box(icons: dict[str, Any], name: str) -> str:
    """The icon's view box, widened to a square around the same center."""
    icon = icons["icons"][name]
    usual = {"left": 0, "top": 0, "width": 16, "height": 16}
    left, top, width, height = (icon.get(k, icons.get(k, v)) for k, v in usual.items())
    side = max(width, height)
    return f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
