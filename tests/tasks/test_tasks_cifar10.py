"""CIFAR-10: both layouts give the same arrays, and a pickle runs no code."""

import io
import pickle
import struct
import sys
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from stored import picture as picture_file

from metalearn_tut.tasks import cifar10
from metalearn_tut.tasks.cifar10 import CLASSES

pytestmark = pytest.mark.usefixtures("own_cache")

TRAIN_PER_CLASS, TEST_PER_CLASS = 20, 3


def picture(part, c, i):
    """Pixels [3, 32, 32] of the i-th image of class c."""
    return np.random.default_rng([len(part), c, i]).integers(0, 256, (3, 32, 32), np.uint8)


def shuffled(part, per_class, seed=0):
    """(images, labels) of a part in random order, each class's images in order of i."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), per_class))
    seen = dict.fromkeys(range(10), -1)
    images = []
    for c in labels.tolist():
        seen[c] += 1
        images.append(picture(part, c, seen[c]))
    return np.stack(images), labels


def python2_pickle(images, labels):
    """A batch written as Python 2 did, opcode by opcode: byte strings, and flags as integers."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    flat = images.reshape(len(images), -1)
    shape = b"".join(b"M" + struct.pack("<H", n) for n in flat.shape)
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + text(flat.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels.tolist()) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def modern_pickle(images, labels, protocol=None):
    content = {b"data": images.reshape(len(images), -1), b"labels": labels.tolist()}
    return pickle.dumps(content, protocol)


def batches(write=python2_pickle):
    """The members of the official archive, smaller: five training batches and a test batch."""
    images, labels = shuffled("train", TRAIN_PER_CLASS)
    cuts = np.split(np.arange(len(labels)), 5)
    out = {f"data_batch_{i + 1}": write(images[cut], labels[cut]) for i, cut in enumerate(cuts)}
    return {**out, "test_batch": write(*shuffled("test", TEST_PER_CLASS)), "readme.html": b"<a>"}


def write_official(root, members, packed=True):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)
    if packed:
        with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(folder, folder.name)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def png(array):
    return picture_file(array.transpose(1, 2, 0), compress_level=1)


def write_classes(root):
    for part, per_class in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
        (root / part).mkdir(parents=True)
        for c, name in enumerate(CLASSES):
            images = {f"{i:04}.png": png(picture(part, c, i)) for i in range(per_class)}
            if name == "frog":
                (root / part / name).mkdir()
                for file, data in images.items():
                    (root / part / name / file).write_bytes(data)
            else:
                with zipfile.ZipFile(root / part / f"{name}.zip", "w") as archive:
                    for file, data in images.items():
                        archive.writestr(file, data)


# --- what comes out ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["archive", "folder", "classes"])
def test_every_layout_gives_rounds_of_the_ten_classes(tmp_path, layout):
    if layout == "classes":
        write_classes(tmp_path)
    else:
        write_official(tmp_path, batches(), packed=layout == "archive")
    # 20 training images per class: 18 rounds to train on, the last tenth to validate with
    wanted = {"train": ("train", range(18)), "validation": ("train", range(18, 20))}
    for split, (part, rounds) in {**wanted, "test": ("test", range(3))}.items():
        data = cifar10(split, tmp_path)
        assert data.images.dtype == np.uint8 and data.labels.dtype == np.int64
        assert data.class_names == CLASSES
        assert data.labels.tolist() == list(range(10)) * len(rounds)
        expected = np.stack([picture(part, c, i) for i in rounds for c in range(10)])
        np.testing.assert_array_equal(data.images, expected)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_batches_written_by_any_python_are_read(tmp_path, protocol):
    members = batches(lambda images, labels: modern_pickle(images, labels, protocol))
    write_official(tmp_path, members)
    expected = np.stack([picture("test", c, i) for i in range(3) for c in range(10)])
    np.testing.assert_array_equal(cifar10("test", tmp_path).images, expected)


def test_flags_of_old_pickles_become_booleans(monkeypatch):
    module = sys.modules[cifar10.__module__]
    monkeypatch.setattr(module, "np", SimpleNamespace(dtype=lambda *arguments: arguments))
    assert str(module._dtype(b"u1", 0, 1)) == "('u1', False, True)"


def test_second_use_comes_from_the_cache(tmp_path, own_cache, monkeypatch):
    write_official(tmp_path, batches())
    first = cifar10("train", tmp_path)
    monkeypatch.setattr(sys.modules[cifar10.__module__], "_from_batches", None)
    np.testing.assert_array_equal(cifar10("train", tmp_path).images, first.images)
    assert len(list(own_cache.iterdir())) == 1  # validation is read from the same file
    assert len(cifar10("validation", tmp_path).labels) == 20


def test_wrong_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"split must be .*got 'val'"):
        cifar10("val", tmp_path)


# --- what is wrong with files -----------------------------------------------------------


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_calls_anything_else_is_refused_before_it_runs(tmp_path):
    trace = tmp_path / "ran"
    write_official(tmp_path / "d", {"test_batch": pickle.dumps({"data": Evil(trace)})})
    with pytest.raises(ValueError, match=r"cannot read .*test_batch in .*it calls (_?io)\.open"):
        cifar10("test", tmp_path / "d")
    assert not trace.exists()


@pytest.mark.parametrize(
    "batch, message",
    [
        (b"", "cannot read .*test_batch"),
        (batches()["test_batch"][:2000], "cannot read .*test_batch"),
        (pickle.dumps([1]), "cannot read .*test_batch"),
        (pickle.dumps({b"labels": [1]}), "cannot read .*test_batch.*'data'"),
        (modern_pickle(np.zeros((2, 3000), np.uint8), np.zeros(2)), r"uint8 \(2, 3000\)"),
        (modern_pickle(np.zeros((2, 3072)), np.zeros(2)), r"got float64 \(2, 3072\)"),
        (modern_pickle(np.zeros((2, 3072), np.uint8), np.zeros(3)), r"labels \(3,\)"),
        (modern_pickle(np.zeros((2, 3072), np.uint8), np.array([0, 10])), r"labels in 0\.\.9"),
    ],
)
def test_damaged_batch_is_named(tmp_path, own_cache, batch, message):
    write_official(tmp_path / "d", {"test_batch": batch})
    with pytest.raises(ValueError, match=message):
        cifar10("test", tmp_path / "d")
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_truncated_archive_and_missing_batch_are_named(tmp_path):
    members = batches()
    del members["data_batch_4"]
    write_official(tmp_path, members)
    with pytest.raises(ValueError, match=r"is incomplete: it lacks data_batch_4"):
        cifar10("train", tmp_path)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"cannot read .*cifar-10-python\.tar\.gz"):
        cifar10("train", tmp_path)


def test_absent_files_say_where_and_how(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "train" / "cat.zip").unlink()
    assert len(cifar10("test", tmp_path).labels) == 30
    with pytest.raises(FileNotFoundError) as caught:
        cifar10("train", tmp_path)
    for words in ("cifar-10-python.tar.gz", "train/cat.zip", str(tmp_path), "data cifar10 --downl"):
        assert words in str(caught.value)


def test_undecodable_and_missing_images_are_named(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "test" / "frog" / "0002.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot decode the image 0002\.png in .*frog"):
        cifar10("test", tmp_path)
    (tmp_path / "test" / "frog" / "0002.png").unlink()
    with pytest.raises(ValueError, match=r"frog is incomplete: it has 2 images, others 3"):
        cifar10("test", tmp_path)


def test_download_goes_through_the_checksum(tmp_path, monkeypatch):
    asked = []

    def fetch(url, sha256, folder):
        asked.append((url, sha256, folder))
        write_official(folder, batches())
        return folder / "cifar-10-python.tar.gz"

    monkeypatch.setattr(sys.modules[cifar10.__module__], "fetch", fetch)
    for _ in range(2):
        assert len(cifar10("test", tmp_path / "new", download=True).labels) == 30
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    sha256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert asked == [(url, sha256, tmp_path / "new")]


# --- the real files ---------------------------------------------------------------------


def test_real_test_set(data_root):
    """Decodes 10,000 small images, about a second."""
    path = data_root / "cifar10" / "test" / "ship.zip"
    if not path.exists():
        pytest.skip("METALEARN_TUT_DATA holds no cifar10/test/ship.zip")
    data = cifar10("test")
    assert data.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    with zipfile.ZipFile(path) as archive:
        name = sorted(archive.namelist())[42]
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
    image = data.images[data.labels == CLASSES.index("ship")][42]
    np.testing.assert_array_equal(image.transpose(1, 2, 0), pixels)
