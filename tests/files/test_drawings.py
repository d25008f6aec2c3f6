"""Pictures of any size as shipped learners know them, and what kind of pictures they are."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from metalearn_tut.files import drawings
from metalearn_tut.files.pictures import middle_square
from metalearn_tut.pretrained.choice import kind_of, prepared, suited

GLYPHS = {"data": {"name": "glyphs"}, "model": {"image_size": 28, "in_channels": 1}}
EMOJI = {"data": {"name": "emoji"}, "model": {"image_size": 32, "in_channels": 3}}


def drawn(color="black", paper="white", size=(300, 200), at=(40, 30), side=80, width=12):
    """A square's outline on paper."""
    image = Image.new("RGB", size, paper)
    corners = (*at, at[0] + side, at[1] + side)
    ImageDraw.Draw(image).rectangle(corners, outline=color, width=width)
    return image


def photograph(seed=0, size=(120, 90)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize(
    ("picture", "plain", "colored"),
    [
        (drawn(), True, False),
        (drawn("white", "black"), True, False),
        (drawn("red"), True, True),
        (drawn("#222", "#fdf6e3"), True, False),  # black on paper that is not white
        (drawn("white", "#2040d0"), True, False),
        (drawn().convert("L"), True, False),
        (photograph(), False, True),
        (photograph().convert("L"), False, False),
        (Image.new("RGB", (9, 9), "white"), True, False),
        (Image.new("L", (1, 1), 3), True, False),
    ],
)
def test_the_rim_tells_drawings_and_their_ink_whether_it_is_color(picture, plain, colored):
    assert drawings.is_plain(picture) == plain
    assert drawings.is_colored(picture) == colored


def box(square):
    rows, columns = (np.flatnonzero(square.any(axis)) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize("size", [28, 32, 84])
@pytest.mark.parametrize("place", [{"at": (40, 30)}, {"at": (200, 100), "side": 60}])
def test_ink_is_laid_into_the_middle_and_fills_eleven_fourteenths(size, place):
    (square,) = drawings.ink_square(drawn(**place), size)
    assert square.dtype == np.uint8 and square.shape == (size, size) and square.max() == 255
    top, bottom, left, right = box(square > 60)
    assert abs(top + bottom - (size - 1)) <= 1 and abs(left + right - (size - 1)) <= 1
    assert abs(bottom + 1 - top - 22 * size / 28) <= 2


def test_ink_is_what_differs_from_the_ground():
    dark, light = drawn("black", "white"), drawn("white", "black")
    faint = drawn("#b0b0b0", "#e8e8e8")
    first = drawings.ink_square(dark, 28)
    for other in (light, faint):
        assert np.abs(drawings.ink_square(other, 28).astype(int) - first).max() <= 2


def test_thin_lines_are_thickened_to_two_pixels_and_thick_ones_are_left():
    thin, wide = (drawings.ink_square(drawn(width=w), 28)[0] for w in (1, 40))
    middle = thin[14].astype(int)
    assert 1.5 <= middle[:14].sum() / 255 <= 3
    assert wide[14].astype(int).sum() / 255 == pytest.approx(22, abs=1.5)


def test_a_shadow_over_the_paper_is_no_ink():
    pixels = np.asarray(drawn()).astype(float)
    shaded = pixels - np.linspace(0, 40, pixels.shape[1])[None, :, None]
    picture = Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8))
    found, clean = (drawings.ink_square(p, 28).astype(int) for p in (picture, drawn()))
    assert np.abs(found - clean).mean() < 4


def test_a_colored_drawing_keeps_its_color_and_its_ground():
    square = drawings.color_square(drawn("red", "#fff0f0"), 32)
    assert square.shape == (3, 32, 32) and square.dtype == np.uint8
    assert square[:, 0, 0].tolist() == [255, 240, 240]
    top, bottom, *_ = box(square[1] < 120)
    assert (top, bottom) == (1, 30)


@pytest.mark.parametrize("made", [drawings.ink_square, drawings.color_square])
def test_nothing_drawn_is_a_blank_square(made):
    square = made(Image.new("RGB", (40, 60), "white"), 28)
    assert square.shape[1:] == (28, 28) and len(np.unique(square)) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2000), (28, 28)])
def test_any_size_gives_the_square_asked_for(size):
    for picture in (Image.new("RGB", size, "red"), photograph(size=size)):
        assert drawings.ink_square(picture, 28).shape == (1, 28, 28)
        assert drawings.color_square(picture, 32).shape == (3, 32, 32)


# Which learner


@pytest.mark.parametrize(
    ("pictures", "kind"),
    [
        ([drawn(), drawn(), drawn("red")], "ink"),
        ([drawn(), drawn("blue"), drawn("red")], "color"),
        ([photograph(), drawn(), photograph(1)], "photo"),
        ([photograph(), drawn(), drawn("red"), drawn("red")], "color"),
        ([photograph(), drawn()], "photo"),
    ],
)
def test_most_pictures_decide(pictures, kind):
    assert kind_of(pictures) == kind


GRAY = ["glyphs_5way_1shot", "glyphs_5way_5shot"]
COLOR = ["emoji_5way_1shot", "emoji_5way_1shot_small", "emoji_protonet"]
PHOTO = ["photos_5way_5shot"]


@pytest.mark.parametrize(
    ("kind", "ways", "shots", "shipped", "name"),
    [
        ("ink", 5, 1, GRAY, "glyphs_5way_1shot"),
        ("ink", 5, 3, GRAY, "glyphs_5way_5shot"),
        ("ink", 9, 1, GRAY, "glyphs_5way_1shot"),
        ("color", 5, 1, GRAY + COLOR, "emoji_5way_1shot"),
        ("color", 5, 4, GRAY + COLOR, "emoji_5way_1shot"),
        ("color", 7, 1, GRAY + COLOR, "emoji_protonet"),
        ("color", 7, 1, ["emoji_5way_1shot"], "emoji_5way_1shot"),
        ("photo", 5, 1, GRAY + COLOR + PHOTO, "photos_5way_5shot"),
        ("photo", 8, 1, GRAY + COLOR + PHOTO, "photos_5way_5shot"),
        ("photo", 5, 1, GRAY + COLOR, "emoji_5way_1shot"),
    ],
)
def test_the_learner_made_for_them_is_chosen(kind, ways, shots, shipped, name):
    assert suited(kind, ways, shots, shipped) == name


@pytest.mark.parametrize(
    ("kind", "what"), [("color", "colored drawings"), ("photo", "photographs")]
)
def test_without_a_learner_made_for_them_this_is_said(kind, what):
    with pytest.raises(ValueError, match=f"these pictures are {what}.*no learner for them"):
        suited(kind, 5, 1, GRAY)


def test_a_picture_is_shown_as_the_learner_was_taught():
    assert np.array_equal(prepared(drawn(), GLYPHS), drawings.ink_square(drawn(), 28))
    assert np.array_equal(prepared(drawn("red"), EMOJI), drawings.color_square(drawn("red"), 32))
    assert np.array_equal(prepared(photograph(), EMOJI), middle_square(photograph(), 32, 3))
    own = {"data": {"name": "image_folder"}, "model": {"image_size": 16, "in_channels": 1}}
    assert np.array_equal(prepared(drawn("red"), own), middle_square(drawn("red"), 16, 1))
