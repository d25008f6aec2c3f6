"""Anybody's own pictures, and the layouts of mini-ImageNet and CIFAR-10 that people have."""

import io
import json
import os
import pickle
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stored import picture, written

from metalearn_tut.runs import building as runs
from metalearn_tut.tasks import cifar10, image_folder, mini_imagenet
from metalearn_tut.tasks.cifar10 import CLASSES

pytestmark = pytest.mark.usefixtures("own_cache", "no_real_data")


def pixels(*seed, side=8):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def seed_of(name):
    return sum(unicodedata.normalize("NFC", name).encode())


def pictures(names, count=3, pattern="{name}/{i}.png"):
    return {
        pattern.format(name=name, i=i): picture(pixels(seed_of(name), i))
        for name in names
        for i in range(count)
    }


def check(source, names, count=3):
    """Every class holds its own pictures, whatever the layout."""
    assert source.class_names == tuple(names)
    for c, name in enumerate(names):
        expected = [pixels(seed_of(name), i).transpose(2, 0, 1) for i in range(count)]
        np.testing.assert_array_equal(source.images_of(c, range(count)), expected)


ANIMALS = ["cat", "dog", "emu", "fox", "gnu"]
SCRIPTS = ["Ελληνικά", "Кошка", "कुत्ता", "猫", "🦊"]


# --- image_folder: what is read ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["mine", "mine.zip", "mine.tar"])
@pytest.mark.parametrize("names", [ANIMALS, SCRIPTS])
@pytest.mark.parametrize("above", ["", "pictures/", "a/b/c/"])
def test_one_folder_is_one_class(tmp_path, kind, names, above):
    members = {above + n: d for n, d in pictures(names).items()}
    members |= {above + "README.txt": b"mine", "__MACOSX/cat/._0.png": b""}
    check(image_folder(written(tmp_path / kind, members), size=8), sorted(names))


def test_pictures_of_every_kind_and_size_become_squares(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    clear = np.dstack([np.zeros((30, 30, 3), np.uint8), np.zeros((30, 30), np.uint8)])
    members = {
        "a/wide.png": picture(wide),
        "a/tall.JPEG": picture(np.full((90, 30, 3), 77, np.uint8), "JPEG"),
        "b/clear.png": picture(clear),
        "b/deep.tif": picture(np.full((9, 9), 257 * 50, np.uint16), "TIFF"),
        "b/one.gif": picture(np.ones((7, 7), bool), "GIF"),
    }
    source = image_folder(written(tmp_path / "mine", members), size=16)
    assert source.images.shape == (5, 3, 16, 16) and source.images.dtype == np.uint8
    # in the order of their names: a/tall, a/wide, b/clear, b/deep, b/one
    assert [int(image[0, 8, 8]) for image in source.images[:]] == [77, 200, 255, 50, 255]
    gray = image_folder(tmp_path / "mine", size=16, channels=1)
    assert gray.images.shape == (5, 1, 16, 16)


def test_split_folders_are_used_and_otherwise_the_classes_are_split(tmp_path):
    folders = {"Train": ANIMALS[:2], "val": ANIMALS[2:4], "test": ANIMALS[4:]}
    inside = {
        f"{folder}/{n}": d for folder, names in folders.items() for n, d in pictures(names).items()
    }
    root = written(tmp_path / "split", {f"mine/{n}": d for n, d in inside.items()})
    check(image_folder(root, "train", size=8), ANIMALS[:2])
    check(image_folder(root, "validation", size=8), ANIMALS[2:4])
    check(image_folder(root, "test", size=8), ANIMALS[4:])
    check(image_folder(root / "mine" / "val", size=8), ANIMALS[2:4])
    plain = written(tmp_path / "plain", pictures(ANIMALS))
    parts = [image_folder(plain, split, size=8) for split in ("train", "validation", "test")]
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == ANIMALS and [len(p.rows) for p in parts] == [3, 1, 1]
    for part in parts:
        check(part, part.class_names)


def test_groups_are_folders_of_classes(tmp_path):
    names = ["birds/emu", "birds/wren", "mammals/cat", "mammals/dog"]
    root = written(tmp_path / "mine", pictures(names))
    source = image_folder(root, size=8, groups=True)
    check(source, names)
    assert source.groups == ("birds", "birds", "mammals", "mammals")


def test_what_was_decoded_is_kept_until_a_file_changes(tmp_path, own_cache, monkeypatch):
    root = written(tmp_path / "mine", pictures(ANIMALS))
    check(image_folder(root, size=8), ANIMALS)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[image_folder.__module__], "decode_square", None)
        check(image_folder(root, size=8), ANIMALS)
        with pytest.raises(TypeError):  # another size is decoded anew
            image_folder(root, size=9)
    times = (root / "cat" / "0.png").stat()
    (root / "cat" / "0.png").write_bytes(picture(pixels(1, 2, 3)))
    os.utime(root / "cat" / "0.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    found = image_folder(root, size=8).images_of(0, [0])[0]
    np.testing.assert_array_equal(found, pixels(1, 2, 3).transpose(2, 0, 1))


def test_the_same_pictures_in_a_folder_or_an_archive_are_the_same_tasks(tmp_path):
    sources = [
        image_folder(written(tmp_path / kind, pictures(SCRIPTS)), size=8)
        for kind in ("one", "two.zip", "three.tar")
    ]
    assert len({source.fingerprint() for source in sources}) == 1
    moved = image_folder(written(tmp_path / "four", pictures(SCRIPTS)), size=9)
    assert moved.fingerprint() != sources[0].fingerprint()


# --- image_folder: few pictures ---------------------------------------------------------


def test_classes_with_few_pictures_are_left_out_by_name(tmp_path):
    root = written(tmp_path / "mine", {**pictures(ANIMALS[:3], 5), **pictures(["few", "rare"], 2)})
    message = "mine: left out 2 of 5 classes with fewer than 5 images: 'few' has 2, 'rare' has 2"
    with pytest.warns(UserWarning, match=message):
        source = image_folder(root, size=8, min_images=5)
    check(source, ANIMALS[:3], 5)
    source.sampler(3, 1, 4)
    with pytest.raises(ValueError, match=r"class 'few' of mine has 2; source\.with_at_least\(5\)"):
        image_folder(root, size=8).sampler(3, 1, 4)
    with pytest.raises(ValueError, match="no class of mine has 9 images: the largest has 5"):
        image_folder(root, size=8, min_images=9)


def test_a_class_folder_without_a_picture_is_named(tmp_path):
    root = written(tmp_path / "mine", {**pictures(ANIMALS[:2]), "notes/a.txt": b"", "x.csv": b""})
    (root / "empty").mkdir()
    with pytest.warns(UserWarning, match="left out 2 of 4 .*'empty' has 0, 'notes' has 0"):
        source = image_folder(root, size=8)
    check(source, ANIMALS[:2])


# --- image_folder: what is refused ------------------------------------------------------

WRONG = {
    "nothing": ({}, r"mine holds no pictures \(\.png, \.jpg"),
    "no picture": ({"a/notes.txt": b""}, r"mine holds no pictures"),
    "no class folder": (
        {**pictures(["cat"]), "stray.png": b""},
        r"stray\.png in .*mine lies in no class folder",
    ),
    "nested": (
        {**pictures(["cat", "dog"]), "cat/2019/9.png": b""},
        r"cat/2019/9\.png in .* inside a class folder.*groups=True",
    ),
    "case": ({**pictures(["cat"]), **pictures(["Cat"])}, "'Cat' and 'cat' in .* are one class"),
    "sharp s": (
        {**pictures(["Straße"]), **pictures(["STRASSE"])},
        "'STRASSE' and 'Straße' in .* are one class",
    ),
    "Unicode form": (
        {**pictures(["caf\u00e9"]), **pictures(["cafe\u0301"])},
        "caf.* and .*caf.* are one class",
    ),
    "the same class in two splits": (
        {f"{s}/{n}": d for s in ("train", "test") for n, d in pictures(["cat", "dog"]).items()},
        r"'test/cat' and 'train/cat' in .*mine are one class: .*in one split only",
    ),
    "two broken": (
        {**pictures(["cat", "dog"]), "cat/0.png": b"?", "dog/1.png": picture(pixels(1))[:80]},
        r"2 of 6 pictures are broken: .*cat/0\.png in .*; .*dog/1\.png",
    ),
    "a kind that is not read": (
        {**pictures(["cat"]), "cat/IMG_1.HEIC": b"", "cat/IMG_2.HEIC": b""},
        r"cat/IMG_1\.HEIC in .*\(and 1 others\) cannot be read: save such pictures as JPEG",
    ),
    "too many pixels": (
        {**pictures(["cat"]), "dog/1.png": None},
        r"1 of 4 pictures are broken: .*dog/1\.png in .*exceeds limit",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", ["mine", "mine.zip"])
def test_what_is_wrong_with_a_folder_is_said(tmp_path, own_cache, name, kind):
    members, message = WRONG[name]
    if None in members.values():
        large = io.BytesIO()
        Image.new("1", (10_000, 10_000)).save(large, "PNG")
        members = {**members, "dog/1.png": large.getvalue()}
    root = written(tmp_path / kind, members)
    root.mkdir(exist_ok=True) if kind == "mine" else None
    with pytest.raises(ValueError, match=message.replace("mine", root.name)):
        image_folder(root, "train" if "splits" in name else None, size=8)
    assert not own_cache.exists() or not list(own_cache.glob("*.npy"))


def test_arguments_that_are_wrong_are_named(tmp_path):
    root = written(tmp_path / "mine", pictures(ANIMALS[:2]))
    for arguments, message in (
        ({"size": 0}, "size must be an integer >= 1, got 0"),
        ({"size": True}, "size must be an integer >= 1, got True"),
        ({"channels": 4}, "channels must be one of 1, 3, got 4"),
        ({"split": "val"}, "split must be one of 'train', 'validation', 'test', got 'val'"),
        ({"min_images": 0}, "min_images must be an integer >= 1, got 0"),
        ({"split": "train"}, "has 2 classes, too few for three splits"),
    ):
        with pytest.raises(ValueError, match=message):
            image_folder(root, **{"size": 8, **arguments})
    with pytest.raises(FileNotFoundError, match=r"needs a folder, zip or tar, got .*nowhere"):
        image_folder(tmp_path / "nowhere")
    parts = written(tmp_path / "parts", {f"train/{n}": d for n, d in pictures(ANIMALS).items()})
    with pytest.raises(ValueError, match="has folders for train: name one as split"):
        image_folder(parts, size=8)
    with pytest.raises(FileNotFoundError, match="has folders for train, but none for test"):
        image_folder(parts, "test", size=8)


def test_a_configuration_reads_pictures_and_needs_their_root(tmp_path):
    root = written(tmp_path / "mine", pictures(ANIMALS))
    data = {"name": "image_folder", "size": np.int64(8), "channels": 1}
    parts = [runs.build_source(data, split, root) for split in ("train", "validation", "test")]
    assert sorted(name for part in parts for name in part.class_names) == ANIMALS
    assert parts[0].images.shape == (15, 1, 8, 8)
    with pytest.raises(ValueError, match=r"image_folder needs root \(--root\)"):
        runs.build_source(data, "train")


# --- mini-ImageNet ----------------------------------------------------------------------

SPLITS = {"train": ["n03", "n01"], "val": ["n04"], "test": ["n07"]}
KEYS = {"train": "train", "validation": "val", "test": "test"}


def of_split(key, pattern, name="{name}{i:04}.png"):
    return {
        pattern.format(key=key, name=wnid) + name.format(name=wnid, i=i): picture(
            pixels(seed_of(wnid), i, side=84)
        )
        for wnid in SPLITS[key]
        for i in range(3)
    }


def listing(key, header="filename,label\n"):
    rows = [f"{wnid}{i:04}.png,{wnid}" for i in range(3) for wnid in SPLITS[key]]
    return (header + "\n".join(rows) + "\n").encode()


LAYOUTS = {
    "folders": "{name}/",
    "split folders": "{key}/{name}/",
    "images with folders": "images/{name}/",
    "csv": "images/",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("own", ["", "mini_imagenet/"])
def test_mini_imagenet_in_the_layouts_that_people_have(tmp_path, layout, own):
    members = {} if layout == "csv" else {"splits.json": json.dumps(SPLITS).encode()}
    for key in SPLITS:
        members |= of_split(key, LAYOUTS[layout])
        members |= {f"{key}.csv": listing(key)} if layout == "csv" else {}
    root = written(tmp_path / "data", {own + n: d for n, d in members.items()})
    fingerprints = set()
    for split, key in KEYS.items():
        source = mini_imagenet(split, root)
        assert source.class_names == tuple(SPLITS[key])
        for c, wnid in enumerate(SPLITS[key]):
            expected = [pixels(seed_of(wnid), i, side=84).transpose(2, 0, 1) for i in range(3)]
            np.testing.assert_array_equal(source.images_of(c, range(3)), expected)
        fingerprints.add(source.fingerprint())
    assert len(fingerprints) == 3


def test_images_of_a_csv_may_be_packed(tmp_path):
    root = written(tmp_path / "data", {f"{key}.csv": listing(key, "") for key in SPLITS})
    written(root / "images.zip", {n: d for key in SPLITS for n, d in of_split(key, "a/b/").items()})
    assert mini_imagenet("train", root).class_names == ("n03", "n01")


CSV = {
    "an image that is not there": (b"filename,label\nn0300.png,n03\n", "lists n0300.png, which"),
    "a climbing name": (b"../../etc/passwd,n03\n", r"lists \.\./\.\./etc/passwd, which"),
    "no label": (b"n030000.png\n", "line 1: must be a new file and its label"),
    "twice": (b"n030000.png,n03\nn030000.png,n01\n", "line 2: must be a new file"),
    "nothing": (b"filename,label\n", "lists no image"),
    "a class of another split": (
        listing("train") + listing("val", ""),
        "no class, both have n04",
    ),
    "one image fewer": (listing("train").rsplit(b"\n", 2)[0], "class n01 is incomplete: it has 2"),
}


@pytest.mark.parametrize("name", CSV)
def test_what_is_wrong_with_a_csv_is_said(tmp_path, name):
    text, message = CSV[name]
    members = {f"{key}.csv": listing(key) for key in SPLITS} | {"train.csv": text}
    for key in SPLITS:
        members |= of_split(key, "images/")
    with pytest.raises(ValueError, match=message):
        mini_imagenet("train", written(tmp_path / "data", members))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "name",
    [
        "mini-imagenet-cache-train.pkl",
        "mini_imagenet/mini-imagenet-cache-val.pkl",
        "miniImageNet_category_split_train_phase_train.pickle",
    ],
)
def test_pickles_of_mini_imagenet_are_refused_unread_and_why(tmp_path, name):
    root = written(tmp_path / "data", {name: pickle.dumps(Evil(tmp_path / "ran"))})
    with pytest.raises(ValueError, match="is a pickle, and to read one is to run") as caught:
        mini_imagenet("train", root)
    assert Path(name).name in str(caught.value) and "tasks.from_arrays" in str(caught.value)
    assert not (tmp_path / "ran").exists()


# --- CIFAR-10 ---------------------------------------------------------------------------


def records(part, batch):
    """Two images of each class as the official binary files have them: label, then pixels."""
    images = [
        bytes([c]) + pixels(len(part), batch, c, i, side=32).transpose(2, 0, 1).tobytes()
        for i in range(2)
        for c in range(10)
    ]
    return b"".join(images)


def binary(pattern):
    members = {pattern.format(f"data_batch_{b + 1}"): records("train", b) for b in range(5)}
    return {**members, pattern.format("test_batch"): records("test", 0)}


def numbered(names):
    return {
        f"{part}/{name}/{i}.png": picture(pixels(len(part), b, c, k, side=32))
        for part, batches in (("train", 5), ("test", 1))
        for c, name in enumerate(names)
        for i, (b, k) in enumerate((b, k) for b in range(batches) for k in range(2))
    }


def unpacked(folder):
    def pickled(data):
        array = np.frombuffer(data, np.uint8).reshape(-1, 3073)
        return pickle.dumps({b"data": array[:, 1:].copy(), b"labels": array[:, 0].tolist()})

    return {f"{folder}{n}": pickled(d) for n, d in binary("{}").items()}


CIFAR = {
    "binary": lambda: binary("cifar-10-batches-bin/{}.bin"),
    "the folder itself, binary": lambda: binary("{}.bin"),
    "torchvision's folder": lambda: unpacked("cifar-10-batches-py/"),
    "the folder itself": lambda: unpacked(""),
    "in a folder of its own": lambda: unpacked("cifar10/cifar-10-batches-py/"),
    "folders by number": lambda: numbered(list(map(str, range(10)))),
    "folders by name": lambda: numbered(CLASSES),
}


@pytest.mark.parametrize("layout", CIFAR)
def test_cifar10_in_the_layouts_that_people_have(tmp_path, layout):
    root = written(tmp_path / "data", CIFAR[layout]())
    test = cifar10("test", root)
    assert test.labels.tolist() == list(range(10)) * 2
    expected = [pixels(4, 0, c, i, side=32).transpose(2, 0, 1) for i in range(2) for c in range(10)]
    np.testing.assert_array_equal(test.images, expected)
    both = [cifar10(split, root) for split in ("train", "validation")]
    assert [len(part.labels) for part in both] == [90, 10]
    last = pixels(5, 4, 9, 1, side=32).transpose(2, 0, 1)
    np.testing.assert_array_equal(both[1].images[-1], last)


@pytest.mark.parametrize(
    "data, message",
    [
        (bytes(3073 * 2 - 1), "must hold records of 3073 bytes, got 6145"),
        (bytes([11]) + bytes(3072), r"labels in 0\.\.9"),
    ],
)
def test_binary_files_that_are_none_are_named(tmp_path, data, message):
    root = written(tmp_path / "data", {"cifar-10-batches-bin/test_batch.bin": data})
    with pytest.raises(ValueError, match=rf"test_batch\.bin in .*{message}"):
        cifar10("test", root)
