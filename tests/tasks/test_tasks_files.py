"""Finding and reading files: what is damaged is named, what was decoded is kept."""

import io

import numpy as np
import pytest
from PIL import Image
from stored import written

from metalearn_tut.tasks import files

pytestmark = pytest.mark.usefixtures("own_cache", "no_real_data")

MEMBERS = {"b/two.png": b"second", "a/one.PNG": b"first", "note.txt": b"x"}


# --- where files are looked for ---------------------------------------------------------


def test_root_is_the_only_place_when_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_TUT_DATA", "/elsewhere")
    assert files.data_folders("omniglot", tmp_path) == [tmp_path / "omniglot", tmp_path]


def test_data_variable_comes_before_the_cache(tmp_path, own_cache, monkeypatch):
    assert files.data_folders("x", None) == [own_cache / "x", own_cache]
    monkeypatch.setenv("METALEARN_TUT_DATA", str(tmp_path))
    assert files.data_folders("x", None) == [tmp_path / "x", tmp_path, own_cache / "x", own_cache]


def test_absent_file_says_what_where_and_how():
    error = files.absent("omniglot", "a.zip", ["/p", "/q"], "Get it with `command`.")
    assert isinstance(error, FileNotFoundError)
    assert str(error) == "omniglot needs a.zip; not found in /p, /q. Get it with `command`."


# --- reading ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz", "d"])
def test_a_zip_a_tar_and_a_folder_read_alike(tmp_path, name):
    hidden = {"__MACOSX/a/._one.PNG": b"", ".DS_Store": b"", "a/.hidden.png": b""}
    path = written(tmp_path / name, {**MEMBERS, **hidden})
    with files.opened(path) as (names, read):
        assert names == ["a/one.PNG", "b/two.png", "note.txt"]
        assert files.image_names(names) == ["a/one.PNG", "b/two.png"]
        assert {name: read(name) for name in names} == MEMBERS


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz"])
def test_truncated_archive_is_named(tmp_path, name):
    members = {f"{i}.png": np.random.default_rng(i).bytes(3000) for i in range(9)}
    path = written(tmp_path / name, members)
    path.write_bytes(path.read_bytes()[:5000])
    message = rf"cannot read .*{name}.*fetch the file again"
    with pytest.raises(ValueError, match=message), files.opened(path):
        pass


def test_altered_member_of_a_zip_is_named(tmp_path):
    path = written(tmp_path / "d.zip", MEMBERS)
    path.write_bytes(path.read_bytes().replace(b"second", b"sekond"))
    with files.opened(path) as (_, read):
        assert read("a/one.PNG") == b"first"
        with pytest.raises(ValueError, match=r"cannot read b/two\.png in .*d\.zip: .*CRC"):
            read("b/two.png")


def test_error_of_the_caller_keeps_its_kind(tmp_path):
    with pytest.raises(KeyError, match="mine"), files.opened(written(tmp_path / "d.zip", {})):
        raise KeyError("mine")


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_undecodable_images_are_named():
    whole = png(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    for data in (b"no image", whole[: len(whole) // 2], b""):
        with pytest.raises(ValueError, match=r"cannot decode the image x\.png in d\.zip"):
            files.decode(data, "x.png in d.zip")


def test_decode_rgb_puts_channels_first_and_keeps_pixels():
    array = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    decoded = files.decode_rgb(png(array), "x", 5)
    assert decoded.shape == (3, 5, 5) and decoded.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(decoded[channel], array[:, :, channel])


def test_decode_rgb_resizes_and_repeats_gray():
    decoded = files.decode_rgb(png(np.full((9, 7), 77, np.uint8)), "x", 4)
    assert decoded.shape == (3, 4, 4) and (decoded == 77).all()


# --- what was decoded is kept -----------------------------------------------------------


def test_fingerprint_follows_contents_and_settings(tmp_path):
    path = written(tmp_path / "d", MEMBERS)
    first = files.fingerprint([path], 28)
    assert files.fingerprint([path], 28) == first
    assert files.fingerprint([path], 84) != first
    (path / "note.txt").write_bytes(b"longer")
    assert files.fingerprint([path], 28) != first


def test_cached_arrays_builds_once(own_cache):
    calls = []

    def build():
        calls.append(1)
        return {"x": np.arange(1000), "names": np.array(["a", "b"])}

    first, second = (files.cached_arrays("thing", build) for _ in range(2))
    assert len(calls) == 1
    np.testing.assert_array_equal(first["x"], second["x"])
    assert second["names"].tolist() == ["a", "b"]
    assert [file.name for file in own_cache.iterdir()] == ["thing.npz"]


@pytest.mark.parametrize("damage", ["truncate", "alter", "shape"])
def test_damaged_cache_is_built_again(own_cache, damage):
    def build():
        return {"x": np.arange(1000)}

    files.cached_arrays("thing", build)
    path = own_cache / "thing.npz"
    data = bytearray(path.read_bytes())
    if damage == "shape":  # reading fewer numbers would stop short of the checksum
        at = data.index(b"(1000,)")
        data[at : at + 7] = b"( 100,)"
    else:
        data[4000] ^= 255
    path.write_bytes(data[:4000] if damage == "truncate" else data)
    np.testing.assert_array_equal(files.cached_arrays("thing", build)["x"], np.arange(1000))
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["x"], np.arange(1000))


def test_interrupted_build_leaves_nothing(own_cache):
    def build():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.cached_arrays("thing", build)
    assert not own_cache.exists() or not list(own_cache.iterdir())
