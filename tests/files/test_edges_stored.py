"""What lies in the cache is what was decoded; names, archives and numbers that are not read."""

import io
import os
import struct

import numpy as np
import pytest
from stored import picture, written

from metalearn_tut.tasks import files, image_folder, mini_imagenet

pytestmark = pytest.mark.usefixtures("own_cache", "no_real_data")


def encoded(*seed, side=8, kind="PNG"):
    x = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return picture(x, kind)


def pictures(*classes, count=3):
    return {f"{c}/{i}.png": encoded(len(c), i) for c in classes for i in range(count)}


# The cache

HARM = {
    "cut off": lambda data: data[:-100],
    "empty": lambda data: b"",
    "no array": lambda data: b"garbage" * 99,
    "a zip": lambda data: b"PK\x03\x04" + data,
    "another shape": lambda data: saved(np.zeros((2, 3, 8, 8), np.uint8)),
    "another dtype": lambda data: saved(np.zeros((6, 3, 8, 8), np.int16)),
    "cut off in the header": lambda data: data[:40],
}


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_file_of_the_cache_is_decoded_anew(tmp_path, own_cache, harm):
    root = written(tmp_path / "mine", pictures("cat", "mouse"))
    expected = image_folder(root, size=8).images[:]
    (stored,) = own_cache.glob("*.npy")
    stored.write_bytes(HARM[harm](stored.read_bytes()))
    np.testing.assert_array_equal(image_folder(root, size=8).images[:], expected)
    assert [*own_cache.iterdir()] == [stored]


def test_a_damaged_file_of_mini_imagenet_is_decoded_anew(tmp_path, own_cache):
    members = {f"images/{key}/{i}.png": encoded(i) for key in "abc" for i in range(2)}
    members["splits.json"] = b'{"train": ["a"], "val": ["b"], "test": ["c"]}'
    root = written(tmp_path / "data", members)
    expected = mini_imagenet("train", root, size=8).images[:]
    (stored,) = own_cache.glob("*.npy")
    stored.write_bytes(stored.read_bytes()[:-1])
    np.testing.assert_array_equal(mini_imagenet("train", root, size=8).images[:], expected)


def test_what_is_taken_away_while_it_is_used_is_named(tmp_path, own_cache):
    source = image_folder(written(tmp_path / "mine", pictures("cat", "mouse")), size=8)
    (stored,) = own_cache.glob("*.npy")
    data = stored.read_bytes()
    for change in (lambda: stored.write_bytes(data[:-1]), stored.unlink):
        change()
        with pytest.raises(FileNotFoundError, match=rf"{stored} was removed or cut off .* again"):
            source.sampler(2, 1, 1)[0]


def test_a_process_may_go_to_another_folder(tmp_path, monkeypatch):
    written(tmp_path / "mine", pictures("cat", "mouse"))
    monkeypatch.setenv("METALEARN_TUT_CACHE", "stored")
    monkeypatch.chdir(tmp_path / "mine")
    source = image_folder(".", size=8)
    assert source.name == "mine" and len(list((tmp_path / "mine" / "stored").iterdir())) == 1
    monkeypatch.chdir(tmp_path)
    assert source.sampler(2, 1, 1)[0].support_x.shape == (2, 3, 8, 8)


# Names


@pytest.mark.parametrize(
    "one, two", [("cat", "cat "), ("cat", "cat."), (" cat", "cat"), ("Cat", "cat .")]
)
def test_names_that_look_alike_are_one_class(tmp_path, one, two):
    root = written(tmp_path / "mine", pictures(one, two))
    with pytest.raises(ValueError, match=r"are one class: .* spaces and dots at the end"):
        image_folder(root, size=8)


def test_dots_within_names_are_names(tmp_path):
    root = written(tmp_path / "mine", pictures("a.b", "a.c", "ab"))
    assert image_folder(root, size=8).class_names == ("a.b", "a.c", "ab")


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode")
def test_a_name_that_is_no_text_is_said_at_once(tmp_path):
    root = written(tmp_path / "mine", pictures("cat"))
    (root / os.fsdecode(b"\xff\xfe")).mkdir()
    (root / os.fsdecode(b"\xff\xfe") / "1.png").write_bytes(encoded(1))
    with pytest.raises(ValueError, match=r"'\\udcff\\udcfe/1\.png' in .*mine is no name in Unic"):
        image_folder(root, size=8)


@pytest.mark.parametrize("names", [("train", "test"), ("Val",), ("train", "val", "test")])
def test_pictures_that_lie_in_a_split_are_in_no_class(tmp_path, names):
    root = written(tmp_path / "mine", pictures(*names))
    with pytest.raises(ValueError, match=r"lies in the folder of a split, and in no class folder"):
        image_folder(root, size=8)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    root = written(tmp_path / "mine", pictures("train", "bus"))
    assert image_folder(root, size=8).class_names == ("bus", "train")


# Archives


def test_an_archive_with_a_password_is_refused_before_it_is_read(tmp_path):
    path = written(tmp_path / "mine.zip", pictures("cat"))
    data = bytearray(path.read_bytes())
    for kind, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(kind)
        while place >= 0:
            data[place + flags] |= 1
            place = data.find(kind, place + 4)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^refused: cat/0\.png in .*mine\.zip is encrypted; unp"):
        image_folder(path, size=8)


@pytest.mark.parametrize(
    "name, data", [("a.7z", b"7z\xbc\xaf"), ("a.rar", b"Rar!"), ("a.png", b"")]
)
def test_what_is_no_archive_is_said_in_a_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data or encoded(1))
    said = rf"{name} is neither a folder nor an archive that is read \(\.zip, .*\): unpack it"
    with pytest.raises(ValueError, match=said) as caught:
        image_folder(tmp_path / name, size=8)
    assert "\n" not in str(caught.value)


# Numbers in a TIFF, which Pillow hands over as they stand


def tiff(x, photometric=1, kind=1, bits=None):
    """A gray TIFF written byte by byte, for what Pillow does not write."""
    height, width = x.shape
    data = x.tobytes()
    bits = bits or 8 * x.itemsize
    if bits == 12:
        pairs = x.reshape(-1, 2).astype(int)
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    start = 8 + 2 + 12 * 10 + 4
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, start)]
    tags += [(277, 1), (278, height), (279, len(data)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, 10) + entries + struct.pack("<I", 0) + data


GRAYS = np.random.default_rng(0).integers(0, 2**16, (4, 6)).astype("<u2")
LIGHT = (GRAYS / 65535).astype("<f4")
NUMBERS = {
    "16 bits": (tiff(GRAYS), GRAYS / 257),
    "16 bits, 0 is white": (tiff(GRAYS, 0), 255 - GRAYS / 257),
    "8 bits, 0 is white": (tiff((GRAYS >> 8).astype(np.uint8), 0), 255 - (GRAYS >> 8)),
    "12 bits": (tiff(GRAYS >> 4, bits=12), (GRAYS >> 4) / 4095 * 255),
    "floats": (tiff(LIGHT, kind=3), LIGHT * 255),
    "floats, 0 is white": (tiff(LIGHT, 0, kind=3), 255 - LIGHT * 255),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_gray_numbers_are_what_their_file_says(name):
    data, expected = NUMBERS[name]
    found = np.asarray(files.decode(data, "x"), np.float64)
    np.testing.assert_allclose(found, expected, atol=0.501)


@pytest.mark.parametrize(
    "data, said",
    [
        (tiff(np.array([[-5, 100]], np.int8), kind=2), "its numbers have a sign: save it with 8"),
        (tiff(np.array([[-5, 100]], np.int16), kind=2), "its numbers go from -5 to 100"),
        (b"", "cannot decode the image x: it is empty"),
        (b"<html>404</html>", "cannot decode the image x: it is no readable PNG, JPEG"),
    ],
)
def test_numbers_without_a_look_are_refused_in_a_line(data, said):
    with pytest.raises(ValueError, match=said) as caught:
        files.decode(data, "x")
    assert " at 0x" not in str(caught.value)
