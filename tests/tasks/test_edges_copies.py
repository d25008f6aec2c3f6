"""What is there twice, half or in another way than its list says is never read in silence."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from stored import written

from metalearn_tut.tasks import cifar10, mini_imagenet, omniglot
from metalearn_tut.tasks.omniglot.source import VALIDATION_ALPHABETS

pytestmark = pytest.mark.usefixtures("own_cache", "no_real_data")


def encoded(*seed, kind="PNG", mode="RGB", side=8):
    x = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(x).convert(mode).save(buffer, kind)
    return buffer.getvalue()


# Omniglot


def drawings(count=4, suffix=".png", kind="PNG"):
    return {
        f"images_background/{alphabet}/character{c}/{i}{suffix}": encoded(
            a, c, i, kind=kind, mode="L"
        )
        for a, alphabet in enumerate((*VALIDATION_ALPHABETS, "Greek"))
        for c in (1, 2)
        for i in range(count)
    }


def test_copies_beside_the_drawings_are_refused(tmp_path):
    members = drawings()
    copies = {name.replace(".png", " (1).png"): data for name, data in members.items()}
    said = r"Anglo-Saxon_Futhorc/character1 has 8 files, but 4 different drawings: remove"
    with pytest.raises(ValueError, match=said):
        omniglot("train", written(tmp_path / "data", members | copies), size=8)


def test_drawings_in_two_formats_are_refused(tmp_path):
    root = written(tmp_path / "data", drawings() | drawings(suffix=".jpg", kind="JPEG"))
    with pytest.raises(ValueError, match=r"holds .*Futhorc/character1/0 in two formats: remove"):
        omniglot("train", root, size=8)


def test_a_single_drawing_that_is_there_twice_is_as_in_the_original(tmp_path):
    members = drawings()
    greek = "images_background/Greek/character1/"
    members[f"{greek}3.png"] = members[f"{greek}0.png"]
    source = omniglot("train", written(tmp_path / "data", members), size=8)
    assert [len(rows) for rows in source.rows] == [4, 4]


# mini-ImageNet's lists

LISTS = {"train": ["n1", "n2"], "val": ["n3"], "test": ["n4"]}


def listed(change=lambda text: text):
    members = {}
    for key, classes in LISTS.items():
        rows = [f"{c}_{i}.png,{c}" for c in classes for i in range(2)]
        text = "\n".join(["filename,label", *rows]) + "\n"
        members[f"{key}.csv"] = change(text).encode("utf-8")
        members |= {f"images/{c}_{i}.png": encoded(int(c[1]), i) for c in classes for i in range(2)}
    return members


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace(",", ", "),
        lambda text: text.replace("filename,label", "Filename,Label"),
        lambda text: "\ufeff" + text,
        lambda text: text.removeprefix("filename,label\n"),
    ],
)
def test_lists_as_spreadsheets_write_them_are_read(tmp_path, change):
    found, expected = (
        mini_imagenet("train", written(tmp_path / name, members), size=8)
        for name, members in (("one", listed(change)), ("two", listed()))
    )
    assert found.class_names == ("n1", "n2")
    assert found.fingerprint() == expected.fingerprint()


def test_a_file_that_is_listed_once_and_there_twice_is_refused(tmp_path):
    root = written(tmp_path / "data", listed() | {"images/more/n1_0.png": encoded(99)})
    with pytest.raises(ValueError, match=r"lists one file, .* has two: more/n1_0.png and n1_0.png"):
        mini_imagenet("train", root, size=8)
    mini_imagenet("test", root, size=8)  # which does not ask for it


def test_a_file_of_two_splits_is_refused_under_whatever_label(tmp_path):
    members = listed() | {"val.csv": b"filename,label\nn1_0.png,n3\nn3_1.png,n3\n"}
    with pytest.raises(ValueError, match=r"must share no file, both have n1_0\.png"):
        mini_imagenet("train", written(tmp_path / "data", members), size=8)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_list_in_another_encoding_is_named(tmp_path, encoding):
    members = listed() | {"train.csv": "filename,label\nn1_0.png,né\n".encode(encoding)}
    with pytest.raises(ValueError, match=r"train\.csv must be text in UTF-8"):
        mini_imagenet("train", written(tmp_path / "data", members), size=8)


# CIFAR-10's batches


def batch(labels):
    labels = np.asarray(labels)
    return pickle.dumps({b"data": np.zeros((len(labels), 3072), np.uint8), b"labels": labels})


@pytest.mark.parametrize(
    "labels, said",
    [
        ([*range(10), 0], r"class airplane in .* is incomplete: it has 2 images, others 1"),
        ([*range(9)], r"class truck in .* is incomplete: it has 0 images, others 1"),
        (np.arange(10) + 0.5, "got uint8 .* and float64 labels"),
        (np.arange(10) > 4, "got uint8 .* and bool labels"),
    ],
)
def test_batches_that_are_not_whole_are_refused(tmp_path, labels, said):
    """The first ten images are promised to be one of each class."""
    root = written(tmp_path / "data", {"cifar-10-batches-py/test_batch": batch(labels)})
    with pytest.raises(ValueError, match=said):
        cifar10("test", root)
