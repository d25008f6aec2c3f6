"""The embedded data set: scripts apart, no twins, the same pixels everywhere, a safe cache."""

import hashlib
import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFilter

from metalearn_tut.tasks import glyphs
from metalearn_tut.tasks.glyphs import (
    classes as glyph_classes,
)
from metalearn_tut.tasks.glyphs import (
    reference as glyph_reference,
)
from metalearn_tut.tasks.glyphs import (
    rendering as glyph_rendering,
)
from metalearn_tut.tasks.glyphs.rendering import PER_CLASS, faces, faces_with, ink, render
from metalearn_tut.tasks.source import SPLITS

# The package exports the function under the module's name.
module = sys.modules[glyphs.__module__]


@pytest.fixture(scope="module")
def sources():
    return {split: glyphs(split) for split in SPLITS}


@pytest.fixture(scope="module")
def reference():
    return glyph_reference.read()


@pytest.fixture(scope="module")
def all_images(sources):
    return np.concatenate([source.images[:, 0] for source in sources.values()])


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """An empty cache folder, and a fresh process's memory of it."""
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path))
    module._all_images.cache_clear()
    yield tmp_path
    module._all_images.cache_clear()


@pytest.fixture
def drawn(monkeypatch, all_images):
    """Stand in for the half minute of drawing, and count how often it was asked for."""
    calls = []
    monkeypatch.setattr(module, "render_classes", lambda classes: calls.append(1) or all_images)
    return calls


def upright(codepoint, face):
    return render(ink(codepoint, face), [0.0] * 7)


# The data


def test_whole_scripts_are_held_out(sources):
    scripts = {split: set(source.groups) for split, source in sources.items()}
    assert scripts == {split: set(scripts) for split, scripts in glyph_classes.SCRIPTS.items()}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not scripts[a] & scripts[b]
        assert not set(sources[a].class_names) & set(sources[b].class_names)


def test_counts_are_those_of_the_documentation(sources):
    documented = " ".join(glyphs.__doc__.split())
    for source in sources.values():
        assert f"{source.n_classes:,} " in documented
        for script in set(source.groups):
            assert f"{script} {source.groups.count(script)}" in documented
    total = PER_CLASS * sum(source.n_classes for source in sources.values())
    assert f"all {total:,} images" in documented


def test_each_class_is_twenty_images_with_its_name(sources):
    for source in sources.values():
        assert source.images.shape == (PER_CLASS * source.n_classes, 1, 28, 28)
        assert source.images.dtype == np.uint8
        assert all(len(rows) == PER_CLASS for rows in source.rows)
        assert sorted(np.concatenate(source.rows)) == list(range(len(source.images)))
    names, groups = sources["test"].class_names, sources["test"].groups
    at = names.index("U+0531 ARMENIAN CAPITAL LETTER AYB")
    assert groups[at] == "Armenian"
    first = sources["test"].images_of(at, [0])[0, 0]
    assert np.array_equal(first, glyph_rendering.render_class(0x531)[0])


def test_ink_is_bright_on_black_and_never_clipped(all_images):
    assert all_images[:, [0, -1], :].max() == 0 and all_images[:, :, [0, -1]].max() == 0
    assert (all_images.reshape(len(all_images), -1).max(axis=1) > 100).all()
    share = (all_images > 127).mean(axis=(1, 2))
    assert share.min() > 0.01 and share.max() < 0.6


def test_characters_fill_a_good_part_of_the_image(all_images):
    inked = all_images > 0
    rows, columns = inked.any(axis=2), inked.any(axis=1)
    height, width = (28 - x.argmax(axis=1) - x[:, ::-1].argmax(axis=1) for x in (rows, columns))
    longest = np.maximum(height, width)
    assert longest.min() >= 14 and longest.max() <= 26
    assert 18 < np.median(longest) < 25


def test_images_of_a_class_differ_from_each_other(all_images):
    assert len({image.tobytes() for image in all_images}) == len(all_images)


def test_within_script_draws_each_task_from_one_script():
    sampler = glyphs("validation", within_script=True).sampler(5, 1, 1, seed=3)
    assert len({sampler[i].tags["groups"][0] for i in range(30)}) > 3
    for i in range(30):
        assert len(set(sampler[i].tags["groups"])) == 1


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'train', 'validation', 'test', got 'dev'"):
        glyphs("dev")


# No two classes look the same


def test_no_class_has_the_very_shape_of_another(reference):
    for face in (faces()[0], faces()[4]):  # regular Sans and Serif
        assert "-" not in face.font.path.rsplit("DejaVu")[-1]
        shapes = {}
        for codepoint in reference.codepoints.tolist():
            if codepoint in face.codepoints and face is faces_with(codepoint)[0]:
                mask = ink(codepoint, face)
                twin = shapes.setdefault((mask.size, mask.tobytes()), codepoint)
                assert twin == codepoint, f"U+{codepoint:04X} is drawn exactly like U+{twin:04X}"


@pytest.mark.slow
def test_no_held_out_class_is_covered_by_another_class(reference):
    sans = faces()[0]
    codepoints = [c for c in reference.codepoints.tolist() if c in sans.codepoints]
    images = [Image.fromarray(upright(c, sans)) for c in codepoints]
    wide = np.array([np.asarray(i.filter(ImageFilter.MaxFilter(3)), int) for i in images])
    narrow = np.array([np.asarray(i, int) for i in images])
    for i, codepoint in enumerate(codepoints):
        if glyph_classes.script_of(codepoint)[0] == "train":
            continue
        bare = np.clip(narrow[i] - wide, 0, None).sum(axis=(1, 2))
        uncovered = np.clip(narrow - wide[i], 0, None).sum(axis=(1, 2))
        worst = np.maximum(bare, uncovered) / 255
        worst[i] = np.inf
        twin = codepoints[worst.argmin()]
        assert worst.min() >= 2, f"U+{codepoint:04X} looks like U+{twin:04X}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("AΑАꓮ", "A"),  # Latin, Greek, Cyrillic, Lisu
        ("CcSsOoОоХх", "CSOХ"),  # case, once both fill the image
        ("pρ", "p"),  # nearly alike: what is left uncovered is under two pixels
        ("Il", "I"),  # alike in the first face that both have
        ("eéèAÄ", "eéèAÄ"),  # accents can be told apart
        ("بﺏتﺕ", "بت"),  # Arabic letters and their isolated forms
        ("ᐁᐃᐅᐊ", "ᐁᐃᐅᐊ"),  # one triangle, four directions
        ("\u05d0\u05d1\ufb30\ufb31", "\u05d0\u05d1\ufb30\ufb31"),  # points within a letter count
    ],
)
def test_of_characters_that_look_the_same_the_first_is_kept(monkeypatch, given, kept):
    monkeypatch.setattr(glyph_classes, "letters", lambda: [ord(c) for c in given])
    assert "".join(map(chr, glyph_classes.choose_classes())) == kept


def test_classes_are_letters_in_the_order_of_the_splits(reference):
    codepoints = reference.codepoints.tolist()
    candidates = glyph_classes.letters()
    assert [c for c in candidates if c in set(codepoints)] == codepoints
    # A dot, a modifier letter, a combining mark, a mark on a tatweel, a digit.
    for left_out in (0x1427, 0x02B0, 0x0301, 0xFE77, ord("7")):
        assert faces_with(left_out) and left_out not in candidates


# The drawing


def test_pixels_are_those_of_the_reference_under_the_versions_that_made_it(reference, all_images):
    if glyph_reference.versions() != reference.made_with:
        pytest.skip(f"the checksum is that of {reference.made_with}")
    assert hashlib.sha256(all_images).hexdigest() == reference.sha256


def test_drawing_a_class_again_gives_the_same_bits(reference, all_images):
    for i in (0, 700, 1400, len(reference.codepoints) - 1):
        again = glyph_rendering.render_class(int(reference.codepoints[i]))
        assert np.array_equal(again, all_images[PER_CLASS * i :][:PER_CLASS])


def test_only_faces_that_contain_the_character_draw_it():
    assert len(faces_with(ord("A"))) == 12
    assert len(faces_with(0x5D0)) == 4 and len(faces_with(0x7CA)) == 2  # Hebrew, N'Ko
    for face in faces_with(0x7CA):
        missing = face.font.getmask("\U0001f9ff")  # drawn as the box of a missing glyph
        assert bytes(face.font.getmask("\u07ca")) != bytes(missing)


@pytest.mark.parametrize("codepoint", [ord("A"), ord("I"), ord("Ǆ"), 0x1689, 0xFEFB])
def test_no_jitter_clips_the_ink(codepoint):
    mask = ink(codepoint, faces_with(codepoint)[0])
    for jitter in itertools.product((-1, 1), repeat=7):
        image = render(mask, jitter)
        assert max(image[0].max(), image[-1].max(), image[:, 0].max(), image[:, -1].max()) == 0
        assert image.max() > 100


def test_pose_is_the_rotation_shear_and_size_that_it_says():
    def pose(*jitter):
        linear, shift = glyph_rendering._pose((60, 80), jitter)
        return np.reshape(linear, (2, 2)), shift

    for sign in (-1, 1):
        linear, _ = pose(sign, 0, 0, 0, 0, 0)
        angle = math.degrees(math.atan2(linear[1, 0], linear[0, 0]))
        assert angle == pytest.approx(sign * 10, abs=0.05)
        assert linear.T @ linear == pytest.approx(np.eye(2) * (linear[:, 0] @ linear[:, 0]))
    linear, shift = pose(0, 1, 1, -1, 1, -1)
    assert linear / linear[1, 1] == pytest.approx(np.array([[1.12, 0.15], [0, 1]]))
    assert max(np.abs(linear) @ (60, 80)) / glyph_rendering._FINE == pytest.approx(19)
    assert shift == pytest.approx((2, -2))


def test_render_maps_the_mask_as_the_pose_says():
    mask = Image.new("L", (41, 61))
    mask.paste(255, (30, 50, 39, 59))  # a square around (34.5, 54.5)
    jitter = [0.7, -0.4, 0.9, 0.2, 0.8, -0.6, -0.2]
    linear, shift = glyph_rendering._pose(mask.size, jitter)
    from_center = np.array([34.5 - 20.5, 54.5 - 30.5])
    expected = 14 + np.array(shift) + np.reshape(linear, (2, 2)) @ from_center / 4
    image = render(mask, jitter).astype(float)
    grid = np.arange(28) + 0.5
    center = np.array([image.sum(axis=0) @ grid, image.sum(axis=1) @ grid]) / image.sum()
    assert center == pytest.approx(expected, abs=0.1)


def test_stroke_steps_move_an_edge_by_one_pixel_of_the_fine_grid():
    square = Image.new("L", (40, 40))
    square.paste(255, (10, 10, 30, 30))
    for steps in range(-2, 3):
        changed = np.asarray(glyph_rendering._change_stroke(square, steps))
        assert (changed > 0).sum() == (20 + steps) ** 2


# The reference and its warning


def test_sample_is_part_of_the_pixels(reference, all_images):
    assert glyph_reference.difference(all_images, reference) < module._TOLERANCE
    assert len(np.unique(reference.sample_rows // PER_CLASS)) > 50
    assert glyph_reference.FILE.stat().st_size < 60_000


def test_another_renderer_is_noticed_once(monkeypatch, empty_cache, drawn, all_images):
    shifted = np.roll(all_images, 1, axis=2)  # a planted renderer that draws a pixel lower
    monkeypatch.setattr(module, "render_classes", lambda classes: shifted)
    with pytest.warns(UserWarning, match="differ from those of the reference") as caught:
        glyphs("train")
        glyphs("test")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)


def test_slightly_different_gray_levels_are_no_reason_to_warn(monkeypatch, empty_cache, all_images):
    close = all_images - (all_images % 7 == 3).astype(np.uint8)
    monkeypatch.setattr(module, "render_classes", lambda classes: close)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glyphs("test")


# The cache


def test_second_use_draws_nothing(empty_cache, drawn):
    first = glyphs("test")
    module._all_images.cache_clear()
    second = glyphs("test")
    assert len(drawn) == 1 and len(list(empty_cache.iterdir())) == 1
    assert np.array_equal(first.images, second.images)


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


def _alter(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _alter, lambda f: f.write_bytes(b"")])
def test_damaged_cache_file_is_drawn_again(empty_cache, drawn, all_images, damage):
    glyphs("test")
    (file,) = empty_cache.iterdir()
    damage(file)
    module._all_images.cache_clear()
    again = glyphs("test")
    assert len(drawn) == 2
    assert np.array_equal(again.images[:, 0], all_images[-len(again.images) :])
    module._all_images.cache_clear()
    glyphs("test")
    assert len(drawn) == 2


def test_interrupted_drawing_leaves_no_file(monkeypatch, empty_cache):
    def interrupted(codepoint):
        raise KeyboardInterrupt

    monkeypatch.setattr(glyph_rendering, "render_class", interrupted)
    with pytest.raises(KeyboardInterrupt):
        glyphs("test")
    assert list(empty_cache.iterdir()) == []


def test_changing_a_source_does_not_change_the_next(sources):
    mine = glyphs("validation")
    mine.images[:] = 0
    assert np.array_equal(glyphs("validation").images, sources["validation"].images)


def test_drawing_shows_its_progress_on_the_error_stream(capsys):
    images = glyph_rendering.render_classes([65, 66])
    assert images.shape == (2 * PER_CLASS, 28, 28)
    captured = capsys.readouterr()
    assert "drawing glyphs" in captured.err and captured.out == ""


def test_importing_loads_neither_pillow_nor_matplotlib():
    code = "import sys, metalearn_tut.tasks; print({'PIL', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr
