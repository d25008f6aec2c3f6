"""Pictures as a viewer shows them: the one way in which every data set's files are decoded."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What may lie behind these suffixes, whichever it is; Pillow knows formats that start programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_GRAY = ("1", "L", "LA", "La")
_BITS = {"L;2": 2, "L;4": 4, "RGB;16B": 16}  # of files whose numbers Pillow brings to 8 bits


def decode(data: bytes, where: str) -> Image:
    """A picture as a viewer shows it, as a loaded Pillow image of mode "L" or "RGB".

    What is transparent is laid on white; 16 bits become 8, and numbers 0..1 become 0..255; the
    orientation that a camera noted is applied; of an animation it is the first picture. Colour
    profiles are not applied.

    Parameters
    ----------
    data : bytes
        The file.
    where : str
        What errors call it.

    Raises
    ------
    ValueError
        If the file is damaged, of a format that is not read, larger than
        ``PIL.Image.MAX_IMAGE_PIXELS`` (90 million), or of numbers without a scale.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():  # Pillow warns of what it finds large, then reads it
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _transparent_in_8_bits(image)
        image.load()
        scale = _Scale.of(image)
        return on_white(_eight_bits(_upright(image), scale))
    except UnidentifiedImageError as error:
        reason = "it is empty" if not data else f"it is no readable {', '.join(_FORMATS)}"
        raise ValueError(f"cannot decode the image {where}: {reason}") from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"cannot decode the image {where}: {error}") from error


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    with suppress(Exception):  # a viewer shows a picture whose EXIF data are damaged as it lies
        return ImageOps.exif_transpose(image)
    return image


def _transparent_in_8_bits(image: Image) -> None:
    """The transparent color of a PNG, which stands there in the file's bits, in Pillow's."""
    bits = _BITS.get(image.tile[0][3]) if image.format == "PNG" and image.tile else None
    if bits and (color := image.info.get("transparency")) is not None:
        levels = (color,) if isinstance(color, int) else color
        scaled = tuple(v >> 8 if bits == 16 else v * 255 // (2**bits - 1) for v in levels)
        image.info["transparency"] = scaled[0] if isinstance(color, int) else scaled


class _Scale(NamedTuple):
    """What a file says of its gray numbers: which is the largest, and whether that is black."""

    most: int
    is_black: bool

    @classmethod
    def of(cls, image: Image) -> _Scale:
        """Of a TIFF what its tags say, which Pillow heeds in pictures of 8 bits alone."""
        tags = image.tag_v2 if image.format == "TIFF" else {}
        bits = tags.get(258, (16,))[0]
        if 2 in tags.get(339, ()) and not image.mode.startswith("I"):
            raise ValueError("its numbers have a sign: save it with 8 bits and without")
        most = 1 if image.mode == "F" else 2 ** min(bits, 16) - 1
        return cls(most, tags.get(262) == 0)


def _eight_bits(image: Image, scale: _Scale) -> Image:
    """Gray numbers of 16 bits, or from 0 to 1, as 0..255; other images as they are."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    x = np.asarray(image).astype(np.float64)  # [H, W]
    low, high, most = x.min(), x.max(), scale.most
    if not (low >= 0 and high <= most):
        raise ValueError(
            f"its numbers go from {low:g} to {high:g}, and only 0 to {most} have a known scale "
            f"in mode {image.mode!r}: save it with 8 bits"
        )
    transparent = image.info.get("transparency")
    if transparent is not None:
        x[x == transparent] = most
    if scale.is_black:
        x = most - x
    return Image.fromarray(np.rint(x * (255 / most)).astype(np.uint8))


def on_white(image: Image) -> Image:
    """An image without transparency, gray where the file is."""
    from PIL import Image

    mode = "L" if image.mode in _GRAY else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    picture = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return paper.convert(mode)


def decode_rgb(data: bytes, where: str, size: int) -> np.ndarray:
    """One colour image as ``uint8 [3, size, size]``; other sizes are squeezed to a square."""
    from PIL import Image

    image = decode(data, where).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)


def decode_square(data: bytes, where: str, size: int, channels: int) -> np.ndarray:
    """One picture's file as :func:`middle_square` gives it."""
    return middle_square(decode(data, where), size, channels)


def middle_square(picture: Image, size: int, channels: int) -> np.ndarray:
    """The middle of one picture as ``uint8 [channels, size, size]``, its proportions kept.

    The shorter side is brought to ``size`` pixels, and what the longer has beyond is cut off in
    equal parts at both ends. One channel is light (255 is white), three are red, green, blue.
    """
    from PIL import Image, ImageOps

    image = picture.convert({1: "L", 3: "RGB"}[channels])
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(size, size, channels)
    return pixels.transpose(2, 0, 1)
