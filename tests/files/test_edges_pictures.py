"""What a viewer shows is what is loaded: the right values are composited and scaled by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from metalearn_tut.files.pictures import decode_square
from metalearn_tut.tasks import files
from metalearn_tut.tasks.omniglot.source import read_ink

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)


def saved(image, kind="PNG", **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bits, color, rows, chunks=()):
    """A PNG written byte by byte, for what Pillow does not write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", packed)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def on_white(x, alpha):
    """The equation of compositing: alpha · x + (1 - alpha) · 255."""
    share = (alpha / 255)[..., None] if x.ndim == 3 else alpha / 255
    return share * x + (1 - share) * 255


def luma(x):
    """ITU-R 601, what "L" means."""
    return x @ np.array([0.299, 0.587, 0.114])


def palette(transparency):
    """A picture of 8 colours by number, the expected RGB, and the alpha of every pixel."""
    numbers, colours = GRAY % 8, RGB.reshape(-1, 3)[:8]
    image = Image.new("P", (9, 6))
    image.putdata(numbers.flatten().tolist())
    image.putpalette(colours.flatten().tolist())
    alphas = np.full(8, 255)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    else:
        alphas[: len(transparency)] = list(transparency)
    return image, colours[numbers], alphas[numbers]


def of_palette(transparency, kind="PNG"):
    image, colours, alpha = palette(transparency)
    return saved(image, kind, transparency=transparency), on_white(colours, alpha)


def deep_rgb():
    x = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    rows = [row.astype(">u2").tobytes() for row in x]
    return png(9, 6, 16, 2, rows), x / 257


def deep_rgb_with_a_colour_that_is_none():
    x = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    x[2, 3] = clear = (0x1234, 0x5678, 0x9ABC)
    expected = x / 257
    expected[2, 3] = 255
    rows = [row.astype(">u2").tobytes() for row in x]
    return png(9, 6, 16, 2, rows, [(b"tRNS", struct.pack(">3H", *clear))]), expected


def four_bits_with_a_gray_that_is_none():
    x = np.arange(16, dtype=np.uint8).reshape(2, 8)
    rows = [bytes(int(a) << 4 | int(b) for a, b in row.reshape(-1, 2)) for row in x]
    expected = x * 17.0
    expected[x == 3] = 255
    return png(8, 2, 4, 0, rows, [(b"tRNS", struct.pack(">H", 3))]), expected


def sixteen_bits_with_a_gray_that_is_none():
    x = DEEP.copy()
    x[4, 4] = 1000
    expected = x / 257
    expected[x == 1000] = 255
    rows = [row.astype(">u2").tobytes() for row in x]
    return png(9, 6, 16, 0, rows, [(b"tRNS", struct.pack(">H", 1000))]), expected


def one_bit():
    x = GRAY > 127
    return saved(Image.fromarray(x)), x * 255.0


def cmyk():
    """Without a profile: light times what each ink lets through."""
    x = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    through = 1 - x / 255
    image = Image.frombytes("CMYK", (9, 6), x.tobytes())
    return saved(image, "TIFF"), 255 * through[..., :3] * through[..., 3:]


def first_of(kind, **options):
    frames = [Image.fromarray(np.full((6, 9, 3), v, np.uint8)) for v in (200, 10, 90)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    return data, np.full((6, 9, 3), 200.0)


def with_alpha(x, **options):
    return Image.fromarray(np.dstack([x, ALPHA]), **options)


PICTURES = {
    "RGB": lambda: (saved(RGB), RGB),
    "gray": lambda: (saved(GRAY), GRAY),
    "RGBA": lambda: (saved(with_alpha(RGB)), on_white(RGB, ALPHA)),
    "RGBA as WebP": lambda: (
        saved(with_alpha(RGB), "WEBP", lossless=True, exact=True),
        on_white(RGB, ALPHA),
    ),
    "RGBA as TIFF": lambda: (saved(with_alpha(RGB), "TIFF"), on_white(RGB, ALPHA)),
    "gray with alpha": lambda: (saved(with_alpha(GRAY)), on_white(GRAY, ALPHA)),
    "RGB and a colour that is none": lambda: (
        saved(RGB, transparency=tuple(int(v) for v in RGB[1, 2])),
        on_white(RGB, 255.0 * (RGB[1, 2] != RGB).any(axis=2)),
    ),
    "gray and a gray that is none": lambda: (
        saved(GRAY, transparency=int(GRAY[1, 2])),
        on_white(GRAY, 255.0 * (GRAY[1, 2] != GRAY)),
    ),
    "palette": lambda: (saved(palette(b"")[0]), palette(b"")[1]),
    "palette and one clear colour": lambda: of_palette(3),
    "palette and half clear colours": lambda: of_palette(bytes([0, 128, 255, 7])),
    "palette of a GIF": lambda: of_palette(2, "GIF"),
    "1 bit": one_bit,
    "4 bits and a gray that is none": four_bits_with_a_gray_that_is_none,
    "16 bits": lambda: (saved(DEEP), DEEP / 257),
    "16 bits as TIFF": lambda: (saved(DEEP, "TIFF"), DEEP / 257),
    "16 bits of the other byte order": lambda: (
        saved(Image.frombytes("I;16B", (9, 6), DEEP.astype(">u2").tobytes()), "TIFF"),
        DEEP / 257,
    ),
    "16 bits and a gray that is none": sixteen_bits_with_a_gray_that_is_none,
    "16 bits of colour": deep_rgb,
    "16 bits of colour and one that is none": deep_rgb_with_a_colour_that_is_none,
    "32 bits of which 16 are used": lambda: (saved(DEEP.astype(np.int32), "TIFF"), DEEP / 257),
    "floats": lambda: (saved((GRAY / 255).astype(np.float32), "TIFF"), GRAY),
    "CMYK": cmyk,
    "animated GIF": lambda: first_of("GIF"),
    "animated PNG": lambda: first_of("PNG"),
    "animated WebP": lambda: first_of("WEBP", lossless=True),
    "pages of a TIFF": lambda: first_of("TIFF"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_a_viewer_shows_is_what_is_loaded(name):
    data, expected = PICTURES[name]()
    expected = np.asarray(expected, np.float64)
    colour = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    tolerance = 1.001 if "16 bits of colour" in name else 0.501  # Pillow cuts these to 8 bits
    image = files.decode(data, name)
    assert image.mode == ("L" if expected.ndim == 2 else "RGB")
    np.testing.assert_allclose(np.asarray(image.convert("RGB")), colour, atol=tolerance)
    gray = np.asarray(image.convert("L"))
    np.testing.assert_allclose(gray, luma(colour), atol=tolerance + 0.51)
    # and through every loader's own function
    square = decode_square(data, name, 6, 3).transpose(1, 2, 0)
    assert square.shape == (6, 6, 3) and files.decode_rgb(data, name, 9).shape == (3, 9, 9)
    assert image.size == (colour.shape[1], colour.shape[0])


SQUARE = RNG.integers(0, 256, (7, 7), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "16", "1"])
def test_ink_is_what_is_dark_on_white(mode):
    """Two drawings that look the same have the same ink, whatever is under what is clear."""
    dark = SQUARE > 180
    if mode == "16":
        data = saved(np.where(dark, 0, 65535).astype(np.uint16))
    elif mode == "1":
        data = saved(Image.fromarray(~dark))
    elif mode == "P":
        image = Image.fromarray(dark.astype(np.uint8))
        image = image.convert("P")
        image.putpalette([0, 0, 0] * 2)  # black on a black that is clear
        data = saved(image, transparency=0)
    else:
        parts = [np.zeros((7, 7), np.uint8)] * (len(mode) - 1) + [dark.astype(np.uint8) * 255]
        data = saved(np.dstack(parts))
    np.testing.assert_array_equal(read_ink(data, mode, 7), dark * 255)


# --- orientation ------------------------------------------------------------------------

# What the camera noted, and what a viewer then does to the rows and columns of the file.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_the_orientation_that_a_camera_noted_is_applied(kind, orientation):
    blocks = RNG.integers(0, 256, (2, 3, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    options |= {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = files.decode(saved(blocks, kind, exif=exif, **options), kind)
    np.testing.assert_allclose(np.asarray(image), TURNS[orientation](blocks), atol=4)


def test_damaged_camera_data_leave_the_picture_as_it_lies():
    data = saved(RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(np.asarray(files.decode(data, "x")), RGB)


# --- sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (10, 30), (300, 100)])
def test_the_middle_is_cut_out_and_proportions_are_kept(shape):
    """Three equal fields: the outer two are cut off, the middle one is all that is left."""
    long = max(shape) // 3
    fields = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8).repeat(long, 0)
    picture = np.broadcast_to(fields, (min(shape), max(shape), 3))
    picture = picture if shape[0] < shape[1] else picture.swapaxes(0, 1)
    square = decode_square(saved(np.ascontiguousarray(picture)), "x", 12, 3)
    assert square.shape == (3, 12, 12)
    inside = square[:, 3:-3, 3:-3]
    np.testing.assert_array_equal(inside, np.broadcast_to([[[0]], [[255]], [[0]]], inside.shape))


def test_gray_squares_are_the_light_of_the_colours():
    square = RGB[:, :6]
    found = decode_square(saved(np.ascontiguousarray(square)), "x", 6, 1)
    assert found.shape == (1, 6, 6)
    np.testing.assert_allclose(found[0], luma(square), atol=0.51)


# --- refused ----------------------------------------------------------------------------


def floats(*values):
    return saved(np.array([values] * 2, np.float32), "TIFF")


BAD = {
    "floats of another scale": (floats(0.0, 255.0), "from 0 to 255, and only 0 to 1 have"),
    "floats below 0": (floats(-1.0, 1.0), "from -1 to 1"),
    "floats that are none": (floats(np.nan, 1.0), "from nan to nan"),
    "32 bits in use": (
        saved(np.array([[0, 100_000]], np.int32), "TIFF"),
        "from 0 to 100000, and only 0 to 65535 have a known scale in mode 'I': save it with 8",
    ),
    "negative": (saved(np.array([[-5, 100]], np.int32), "TIFF"), "from -5 to 100"),
    "no picture": (b"no picture", "it is no readable PNG, JPEG"),
    "a program for a printer": (saved(RGB, "EPS"), "it is no readable PNG, JPEG"),
    "a format that nobody asked for": (saved(RGB, "PPM"), "it is no readable PNG, JPEG"),
    "half a picture": (saved(RGB)[:90], "cannot decode the image x"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_known_look_is_refused_by_name(name):
    data, message = BAD[name]
    with pytest.raises(ValueError, match="cannot decode the image x") as caught:
        files.decode(data, "x")
    assert message in str(caught.value)


@pytest.mark.parametrize("side", [10_000, 20_000, 65_000])
def test_a_picture_of_more_pixels_than_pillow_allows_is_refused_before_it_is_read(side):
    """A header that promises 0.1 to 4 billion pixels, and no data behind it."""
    with pytest.raises(ValueError, match=r"cannot decode the image x.*exceeds limit"):
        files.decode(png(side, side, 8, 2, [b""]), "x")
