"""Omniglot: ink is bright, alphabets never cross splits, the official runs as they are."""

import io
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from stored import picture, written

from metalearn_tut.tasks import omniglot, omniglot_runs
from metalearn_tut.tasks.omniglot.source import VALIDATION_ALPHABETS

pytestmark = pytest.mark.usefixtures("own_cache")

TRAINING = ("Latin", "Greek")
DRAWINGS = 3


def drawing(seed, side=105):
    """A 1-bit image, white with random black strokes, as bool [side, side] (True is white)."""
    rng = np.random.default_rng(seed)
    white = np.ones((side, side), bool)
    for row, column in rng.integers(5, side - 25, (4, 2)):
        white[row : row + 3, column : column + 20] = False
        white[row : row + 20, column : column + 3] = False
    return white


def area_average(white, size):
    """255 times the share of ink under each output pixel, by exact subdivision."""
    ink = 255.0 * ~white
    side = len(ink)
    fine = ink.repeat(size, 0).repeat(size, 1)  # side·size wide: both grids divide it
    return fine.reshape(size, side, size, side).mean((1, 3))


def members(stem, alphabets, characters=2):
    return {
        f"{stem}/{alphabet}/character{c + 1:02}/{a:02}{c:02}_{d + 1:02}.png": picture(
            drawing([a, c, d])
        )
        for a, alphabet in enumerate(alphabets)
        for c in range(characters)
        for d in range(DRAWINGS)
    }


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    background = members("images_background", sorted([*TRAINING, *VALIDATION_ALPHABETS]))
    written(root / "images_background.zip", background)
    written(root / "images_background_small1.zip", members("images_background_small1", TRAINING))
    written(root / "images_evaluation.zip", members("images_evaluation", ["Angelic", "Oriya"]))
    return root


# --- splits -----------------------------------------------------------------------------


def test_alphabets_go_where_the_splits_say(root):
    train, validation, test = (omniglot(split, root) for split in ("train", "validation", "test"))
    assert set(train.groups) == set(TRAINING)
    assert set(validation.groups) == set(VALIDATION_ALPHABETS)
    assert set(test.groups) == {"Angelic", "Oriya"}
    assert test.class_names[0] == "Angelic/character01" and test.n_classes == 4
    assert [len(rows) for rows in test.rows] == [DRAWINGS] * 4
    names = [set(source.class_names) for source in (train, validation, test)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_small_background_trains_only(root):
    assert set(omniglot("train", root, background="small1").groups) == set(TRAINING)
    for split in ("validation", "test"):
        with pytest.raises(ValueError, match=rf"'small1' is a training set.*got split='{split}'"):
            omniglot(split, root, background="small1")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"split": "val"}, "split must be one of 'train', 'validation', 'test', got 'val'"),
        ({"split": "train", "background": "big"}, "background must be .* got 'big'"),
        ({"split": "train", "size": 0}, "size must be .* got 0"),
    ],
)
def test_wrong_arguments_are_named(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        omniglot(root=root, **arguments)


def test_within_alphabet_and_rotations(root):
    source = omniglot("train", root, within_alphabet=True, rotations=True)
    assert source.n_classes == 4 * 2 * len(TRAINING)
    sampler = source.sampler(ways=2, shots=1, queries=2)
    assert all(len(set(sampler[i].tags["groups"])) == 1 for i in range(20))
    upright, turned = source.images_of(0, [0]), source.images_of(source.n_classes // 4, [0])
    np.testing.assert_array_equal(turned[0, 0], np.rot90(upright[0, 0]))


# --- pixels -----------------------------------------------------------------------------


def test_ink_is_255_on_0_and_each_pixel_is_an_area_average(root):
    source = omniglot("test", root)
    assert source.images.dtype == np.uint8 and source.images.shape == (4 * DRAWINGS, 1, 28, 28)
    for a, c, d in ((0, 0, 0), (1, 1, 2)):
        image = source.images_of(2 * a + c, [d])[0, 0]
        np.testing.assert_allclose(image, area_average(drawing([a, c, d]), 28), atol=0.501)


def test_full_size_is_the_drawing_itself(root):
    image = omniglot("test", root, size=105).images_of(0, [0])[0, 0]
    np.testing.assert_array_equal(image, np.where(drawing([0, 0, 0]), 0, 255))


def test_zip_and_folder_agree(root, tmp_path):
    written(tmp_path / "plain", members("images_evaluation", ["Angelic", "Oriya"]))
    packed, plain = omniglot("test", root), omniglot("test", tmp_path / "plain")
    assert packed.class_names == plain.class_names
    np.testing.assert_array_equal(packed.images, plain.images)


def test_second_use_comes_from_the_cache(root, own_cache, monkeypatch):
    first = omniglot("test", root)
    monkeypatch.setattr(sys.modules[omniglot.__module__], "_decode", None)
    np.testing.assert_array_equal(omniglot("test", root).images, first.images)
    assert len(list(own_cache.iterdir())) == 1


# --- what is wrong with files -----------------------------------------------------------


def test_absent_file_says_where_and_how(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        omniglot("test", tmp_path)
    for words in ("images_evaluation.zip", str(tmp_path), "metalearn-tut data omniglot --download"):
        assert words in str(caught.value)


def test_undecodable_drawing_is_named(tmp_path, own_cache):
    broken = members("images_evaluation", ["Angelic"])
    broken["images_evaluation/Angelic/character02/0001_02.png"] = b"\x89PNG\r\n\x1a\nno image"
    written(tmp_path / "images_evaluation.zip", broken)
    with pytest.raises(ValueError, match=r"character02/0001_02\.png in .*images_evaluation\.zip"):
        omniglot("test", tmp_path)
    assert not own_cache.exists() or not list(own_cache.iterdir())


@pytest.mark.parametrize(
    "contents, message",
    [
        ({}, "must hold images as <alphabet>/<character>/<drawing>.png"),
        ({"a.png": picture(drawing(0))}, "must hold images as"),
        (members("images_background", TRAINING), "it lacks Anglo-Saxon_Futhorc, Armenian"),
        (members("images_background", VALIDATION_ALPHABETS), "only the validation alphabets"),
        (dict(list(members("x", TRAINING).items())[:-1]), "character02 in .* it has 2 images"),
    ],
)
def test_incomplete_background_is_refused(tmp_path, contents, message):
    written(tmp_path / "images_background.zip", contents)
    with pytest.raises(ValueError, match=message):
        omniglot("train", tmp_path)


def test_download_goes_through_the_checksum(tmp_path, monkeypatch):
    module = sys.modules[omniglot.__module__]
    asked = []

    def fetch(url, sha256, folder):
        asked.append((url, sha256, folder))
        written(folder / "images_evaluation.zip", members("images_evaluation", ["Angelic"]))
        return folder / "images_evaluation.zip"

    monkeypatch.setattr(module, "fetch", fetch)
    for _ in range(2):
        assert omniglot("test", tmp_path / "new", download=True).n_classes == 2
    url = "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip"
    sha256 = "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"
    assert asked == [(url, sha256, tmp_path / "new")]


# --- the official runs ------------------------------------------------------------------


def run_members(top="all_runs/"):
    """20 runs; in run r, test item i is a drawing of training class (7·i + r) mod 20."""
    out = {}
    for r in range(20):
        run = f"run{r + 1:02}"
        lines = []
        for i in range(20):
            answer = (7 * i + r) % 20
            out[f"{top}{run}/training/class{i + 1:02}.png"] = picture(drawing([r, i, 0]))
            out[f"{top}{run}/test/item{i + 1:02}.png"] = picture(drawing([r, answer, 1]))
            lines.append(f"{run}/test/item{i + 1:02}.png {run}/training/class{answer + 1:02}.png")
        out[f"{top}{run}/class_labels.txt"] = "\n".join(lines).encode()
    return out


RUNS = run_members()


@pytest.mark.parametrize("name, top", [("all_runs.zip", "all_runs/"), ("runs", "")])
def test_runs_pair_each_test_item_with_its_class(tmp_path, name, top):
    written(tmp_path / name, {top + n.removeprefix("all_runs/"): d for n, d in RUNS.items()})
    runs = omniglot_runs(tmp_path / name)
    assert len(runs) == len(list(runs)) == 20
    for r in (0, 13):
        task = runs[r]
        assert task.support_x.shape == task.query_x.shape == (20, 1, 28, 28)
        assert task.support_x.dtype == torch.uint8 and task.ways == 20
        assert task.support_y.tolist() == list(range(20))
        assert task.query_y.tolist() == [(7 * i + r) % 20 for i in range(20)]
        assert task.tags["run"] == f"run{r + 1:02}"
        np.testing.assert_allclose(
            task.support_x[4, 0], area_average(drawing([r, 4, 0]), 28), atol=0.501
        )
        answer = (7 * 3 + r) % 20
        np.testing.assert_allclose(
            task.query_x[3, 0], area_average(drawing([r, answer, 1]), 28), atol=0.501
        )


def test_runs_are_a_finite_sampler(tmp_path):
    written(tmp_path / "r.zip", RUNS)
    runs = omniglot_runs(tmp_path / "r.zip")
    assert runs.batch(1, 10).query_x.shape == (10, 20, 1, 28, 28)
    for index in (20, -1):
        with pytest.raises(IndexError, match=r"index must be in 0\.\..*got " + str(index)):
            runs[index]


LABELS = "all_runs/run03/class_labels.txt"
LINE = b"run03/test/item20.png run03/training/class"


@pytest.mark.parametrize(
    "change, message",
    [
        ({LABELS: None}, "must hold 20 runs.* but has 19"),
        ({"all_runs/run05/test/item07.png": None}, "run05/test in .* 20 images, but has 19"),
        ({LABELS: b"run03/test/item01.png"}, "must be a test file and a training file"),
        ({LABELS: b"run04/test/item01.png run04/training/class01.png"}, "of this run, got 'run04"),
        ({LABELS: b"run03/test/item01.png run03/training/class21.png"}, "of this run, got"),
        ({LABELS: b"\xff\xfe\x00"}, "must be a test file and a training file"),
        ({LABELS: RUNS[LABELS].rsplit(b"\n", 1)[0]}, "run03.* no line for .*item20"),
        ({LABELS: RUNS[LABELS] + b"\n" + LINE + b"01.png"}, "item20.png is listed twice"),
        ({"all_runs/run05/test/item07.png": b"?"}, "cannot decode the image .*run05/test/item07"),
    ],
)
def test_malformed_runs_are_refused(tmp_path, change, message):
    changed = {**RUNS, **change}
    written(tmp_path / "r.zip", {name: data for name, data in changed.items() if data is not None})
    with pytest.raises(ValueError, match=message):
        omniglot_runs(tmp_path / "r.zip")


def test_absent_runs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got .*nowhere\.zip"):
        omniglot_runs(tmp_path / "nowhere.zip")


# --- the real files ---------------------------------------------------------------------


def test_real_background_set(data_root):
    if not (data_root / "omniglot" / "images_background.zip").exists():
        pytest.skip("METALEARN_TUT_DATA holds no omniglot/images_background.zip")
    train, validation = omniglot("train"), omniglot("validation")
    assert (train.n_classes, validation.n_classes) == (801, 163)
    assert len(set(train.groups)) == 25 and set(validation.groups) == set(VALIDATION_ALPHABETS)
    assert not set(train.groups) & set(validation.groups)
    assert {len(rows) for rows in (*train.rows, *validation.rows)} == {20}
    assert 0.04 < train.images.mean() / 255 < 0.12  # thin bright strokes on black
    name = "images_background/N_Ko/character07/"
    with zipfile.ZipFile(data_root / "omniglot" / "images_background.zip") as archive:
        chosen = sorted(n for n in archive.namelist() if n.startswith(name) and n[-4:] == ".png")
        white = np.asarray(Image.open(io.BytesIO(archive.read(chosen[11]))))
    image = validation.images_of(validation.class_names.index("N_Ko/character07"), [11])[0, 0]
    np.testing.assert_allclose(image, area_average(white, 28), atol=0.501)


@pytest.mark.parametrize("background, n_classes", [("small1", 136), ("small2", 156)])
def test_real_small_sets_never_meet_validation(data_root, background, n_classes):
    if not (data_root / "omniglot" / f"images_background_{background}.zip").exists():
        pytest.skip(f"METALEARN_TUT_DATA holds no omniglot/images_background_{background}.zip")
    source = omniglot("train", background=background)
    assert source.n_classes == n_classes
    assert not set(source.groups) & set(VALIDATION_ALPHABETS)
