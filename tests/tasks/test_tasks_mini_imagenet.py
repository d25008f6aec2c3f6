"""mini-ImageNet: the usual classes, decoded once, read without filling the memory."""

import io
import itertools
import json
import pickle
import shutil
import sys
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from stored import picture as picture_file
from stored import written

from metalearn_tut.files.mapped import MappedImages
from metalearn_tut.tasks import files, mini_imagenet

pytestmark = pytest.mark.usefixtures("own_cache")

SPLITS = {"train": ["n01", "n02", "n03"], "val": ["n04", "n05"], "test": ["n06", "n07"]}
IMAGES = 4
SHIPPED = Path(sys.modules[mini_imagenet.__module__].__file__).with_name(
    "mini_imagenet_splits.json"
)


def picture(wnid, i, side=84):
    """Pixels [side, side, 3] that belong to one image of one class."""
    return np.random.default_rng([int(wnid[1:]), i]).integers(0, 256, (side, side, 3), np.uint8)


def encoded(array, kind="png"):
    return picture_file(array, kind, **({"lossless": True} if kind == "webp" else {}))


@cache
def class_members(wnid, kind="png"):
    return {f"{i:04}.{kind}": encoded(picture(wnid, i), kind) for i in range(IMAGES)}


@pytest.fixture
def root(tmp_path):
    """Zips of PNG, one tar and one folder of lossless WebP: all layouts at once."""
    root = tmp_path / "data"
    root.mkdir()
    (root / "splits.json").write_text(json.dumps(SPLITS))
    for wnid in itertools.chain(*SPLITS.values()):
        suffix, kind = {"n06": (".tar", "webp"), "n07": ("", "webp")}.get(wnid, (".zip", "png"))
        written(root / (wnid + suffix), class_members(wnid, kind))
    return root


def only_files(folder):
    return [path.name for path in folder.iterdir()] if folder.exists() else []


# --- classes ----------------------------------------------------------------------------


def test_shipped_class_lists_are_64_16_20_different_classes():
    lists = json.loads(SHIPPED.read_text())
    assert [len(lists[key]) for key in ("train", "val", "test")] == [64, 16, 20]
    together = list(itertools.chain(*lists.values()))
    assert len(set(together)) == 100
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in together)


def test_splits_json_of_the_data_comes_first(root):
    sources = [mini_imagenet(split, root) for split in ("train", "validation", "test")]
    assert [list(source.class_names) for source in sources] == list(SPLITS.values())


def test_without_splits_json_the_usual_classes_are_asked_for(root):
    (root / "splits.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"n01855672 \(and 15 others\)"):
        mini_imagenet("validation", root)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"train": ["a"], "val": ["b"]}',
        json.dumps({**SPLITS, "val": ["n01"]}),
        json.dumps({**SPLITS, "test": []}),
        json.dumps({**SPLITS, "test": 3}),
    ],
)
def test_malformed_splits_json_is_refused(root, text):
    (root / "splits.json").write_text(text)
    with pytest.raises(ValueError, match=r"splits\.json must be \{"):
        mini_imagenet("train", root)


# --- pixels -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_is_where_it_belongs(root, split):
    source = mini_imagenet(split, root)
    assert source.images.shape == (IMAGES * source.n_classes, 3, 84, 84)
    assert source.images.dtype == np.uint8
    for c, wnid in enumerate(source.class_names):
        chosen = source.images_of(c, [3, 0])
        for image, i in zip(chosen, (3, 0), strict=True):
            np.testing.assert_array_equal(image, picture(wnid, i).transpose(2, 0, 1))


def test_other_sizes_are_resized(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "splits.json").write_text(json.dumps({"train": ["n01"], "val": ["n02"], "test": ["n"]}))
    flat = np.broadcast_to(np.array([10, 100, 200], np.uint8), (120, 90, 3))
    written(root / "n01", {"a.JPEG": encoded(flat, "jpeg")})
    image = mini_imagenet("train", root).images[0]
    assert image.shape == (3, 84, 84)
    np.testing.assert_allclose(image.mean((1, 2)), [10, 100, 200], atol=3)  # JPEG is lossy
    assert mini_imagenet("train", root, size=32).images.shape == (1, 3, 32, 32)


def test_second_use_decodes_nothing(root, own_cache, monkeypatch):
    first = mini_imagenet("train", root)
    monkeypatch.setattr(files, "decode_rgb", None)
    np.testing.assert_array_equal(mini_imagenet("train", root).images, first.images)
    assert len(only_files(own_cache)) == 1
    np.testing.assert_array_equal(np.load(next(own_cache.iterdir())), first.images)


# --- a file read image by image ---------------------------------------------------------


def resident():
    """Resident memory of this process in MiB, pages of mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


@needs_proc
def test_reading_everything_keeps_nothing_in_memory(tmp_path):
    path = tmp_path / "big.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (200, 1 << 20))  # 200 MiB, sparse on disk
    images, before = MappedImages(path), resident()
    assert sum(int(images[[i]].max()) for i in range(200)) == 0
    assert resident() - before < 20


def test_mapped_images_index_like_the_array(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 5), np.uint8)
    np.save(tmp_path / "a.npy", array)
    images = MappedImages(tmp_path / "a.npy")
    assert (images.shape, images.ndim, images.dtype, len(images)) == (array.shape, 4, "uint8", 7)
    for index in ([5, 2, 2], 3, slice(1, 4), np.array([6]), -1, (2, 0), ...):
        np.testing.assert_array_equal(images[index], array[index])
        assert images[index].flags.owndata  # a view would keep the whole mapping
    np.testing.assert_array_equal(np.asarray(images), array)
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy[[1]], array[[1]])
    assert len(pickle.dumps(images)) < 1000  # a worker is sent the path, not the pixels


def test_every_function_of_a_source_accepts_mapped_images(root):
    source = mini_imagenet("train", root)
    supervised = source.as_supervised()
    assert supervised.images.shape == (12, 3, 84, 84)
    task = source.rotated().sampler(ways=3, shots=1, queries=2)[5]
    assert task.query_x.shape == (6, 3, 84, 84)


# --- what is wrong with files -----------------------------------------------------------


def test_absent_class_says_where_and_what_the_layout_is(root):
    (root / "n02.zip").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mini_imagenet("train", root)
    for words in ("the class n02", str(root), "one folder or one archive", "METALEARN_TUT_DATA"):
        assert words in str(caught.value)


def test_incomplete_class_is_refused(root):
    written(root / "n02.zip", {"0.png": encoded(picture("n02", 0))})
    with pytest.raises(ValueError, match=r"n02\.zip is incomplete: it has 1 images, others 4"):
        mini_imagenet("train", root)


def test_undecodable_image_is_named_and_nothing_is_kept(root, own_cache):
    members = class_members("n03")
    written(root / "n03.zip", {**members, "0002.png": members["0002.png"][:200]})
    with pytest.raises(ValueError, match=r"cannot decode the image 0002\.png in .*n03\.zip"):
        mini_imagenet("train", root)
    assert only_files(own_cache) == []


def test_interruption_leaves_nothing_half_written(root, own_cache, monkeypatch):
    calls = []

    def interrupted(data, where, size):
        calls.append(where)
        if len(calls) > 5:
            assert len(only_files(own_cache)) == 1  # the temporary file is there, and grows
            raise KeyboardInterrupt
        return np.zeros((3, size, size), np.uint8)

    monkeypatch.setattr(files, "decode_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mini_imagenet("train", root)
    assert only_files(own_cache) == []


def test_full_disk_is_seen_before_decoding(root, own_cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"needs 0\.00 GB in .*cache, but 0\.00 GB are free"):
        mini_imagenet("train", root)
    assert only_files(own_cache) == []


@pytest.mark.parametrize("arguments", [{"split": "val"}, {"split": "test", "size": 0}])
def test_wrong_arguments_are_named(root, arguments):
    with pytest.raises(ValueError, match=r"(split|size) must be"):
        mini_imagenet(root=root, **arguments)


# --- the real files ---------------------------------------------------------------------


def test_real_images(data_root, tmp_path):
    """Five test classes, 3,000 images."""
    folder = data_root / "mini_imagenet"
    if not folder.is_dir():
        pytest.skip("METALEARN_TUT_DATA holds no mini_imagenet")
    usual = json.loads(SHIPPED.read_text())
    assert usual == json.loads((folder / "splits.json").read_text())
    (tmp_path / "splits.json").write_text(json.dumps({**usual, "test": usual["test"][4:9]}))
    for wnid in usual["test"][4:9]:
        (tmp_path / f"{wnid}.zip").symlink_to(folder / f"{wnid}.zip")
    source = mini_imagenet("test", tmp_path)
    assert source.n_classes == 5 and source.images.shape == (3000, 3, 84, 84)
    with zipfile.ZipFile(folder / "n02129165.zip") as archive:  # the lion
        name = sorted(archive.namelist())[17]
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
    image = source.images_of(source.class_names.index("n02129165"), [17])[0]
    np.testing.assert_array_equal(image.transpose(1, 2, 0), pixels)
