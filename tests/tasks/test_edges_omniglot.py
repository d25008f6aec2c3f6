"""Omniglot as it lies on people's disks: no drawing in two splits, no class of two characters."""

import shutil

import numpy as np
import pytest
from stored import picture, written

from metalearn_tut.tasks import omniglot
from metalearn_tut.tasks.omniglot.source import VALIDATION_ALPHABETS

pytestmark = pytest.mark.usefixtures("own_cache", "no_real_data")

ALPHABETS = sorted(["Greek", "Latin", *VALIDATION_ALPHABETS])
STEM = "images_background"


def drawing(*seed):
    return np.random.default_rng(seed).integers(0, 2, (8, 8)).astype(bool)


def members(above=STEM, count=3, below=""):
    """Two characters of each alphabet; the names of the files say nothing."""
    return {
        "/".join(
            filter(None, [above, alphabet, f"character{c + 1:02}", below, f"{d:02}.png"])
        ): picture(drawing(a, c, d))
        for a, alphabet in enumerate(ALPHABETS)
        for c in range(2)
        for d in range(count)
    }


def write(root, contents, packed):
    written(root / f"{STEM}.zip" if packed else root, contents)
    return root


def check(root, count=3):
    """Every class holds its own drawings and no others, and the splits share no alphabet."""
    train, validation = (omniglot(split, root, size=8) for split in ("train", "validation"))
    assert set(train.groups) == {"Greek", "Latin"}
    assert set(validation.groups) == set(VALIDATION_ALPHABETS)
    for source in (train, validation):
        for c, name in enumerate(source.class_names):
            alphabet, character = name.split("/")
            a, number = ALPHABETS.index(alphabet), int(character[-2:]) - 1
            expected = np.stack([~drawing(a, number, d) for d in range(count)]) * 255
            np.testing.assert_array_equal(source.images_of(c, range(count))[:, 0], expected)


# --- where alphabets lie ----------------------------------------------------------------

WHERE = ["", STEM, f"{STEM}/{STEM}", "omniglot/python/deep/down", "rot000"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("above", WHERE)
def test_alphabets_in_one_folder_are_read_wherever_it_is(tmp_path, packed, above):
    inside = above if packed else f"{STEM}/{above}".rstrip("/")
    check(write(tmp_path / "data", members(inside), packed))


@pytest.mark.parametrize("count", [1, 19, 21, 25])
def test_a_character_has_as_many_drawings_as_it_has(tmp_path, count):
    check(write(tmp_path / "data", members(count=count), True), count)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "second", [f"{STEM}/{STEM}", f"{STEM}/omniglot/python", f"{STEM}/copy", f"{STEM} (2)"]
)
def test_unzipped_twice_is_refused_naming_both_folders(tmp_path, own_cache, packed, second):
    if not packed and second == f"{STEM} (2)":
        second = f"{STEM}/{second}"
    root = write(tmp_path / "data", {**members(), **members(second)}, packed)
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match="alphabets in one folder, but they are in") as caught:
            omniglot(split, root)
        assert str(root / (f"{STEM}.zip/{STEM}" if packed else STEM)) in str(caught.value)
        assert second in str(caught.value) and "remove one" in str(caught.value)
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_one_alphabet_unzipped_twice_is_enough(tmp_path):
    extra = {n: d for n, d in members(f"{STEM}/{STEM}").items() if "Greek" in n}
    with pytest.raises(ValueError, match=f"{STEM} and in .*{STEM}/{STEM}"):
        omniglot("train", write(tmp_path / "data", {**members(), **extra}, False))


@pytest.mark.parametrize("packed", [True, False])
def test_turned_copies_beside_each_other_are_refused(tmp_path, packed):
    """rot000/Greek and rot090/Greek: each character would hold drawings of both."""
    turned = {**members(f"{STEM}/rot000"), **members(f"{STEM}/rot090")}
    with pytest.raises(ValueError, match=r"rot000 and in .*rot090"):
        omniglot("train", write(tmp_path / "data", turned, packed))


@pytest.mark.parametrize("folder", ["rot000", "drawings", "rot000/png"])
@pytest.mark.parametrize("packed", [True, False])
def test_folders_inside_characters_are_refused(tmp_path, packed, folder):
    """Greek/character01/rot000: the last two folders alone would merge all alphabets."""
    with pytest.raises(ValueError, match=rf"character01/{folder}/00\.png lies in a folder inside"):
        omniglot("train", write(tmp_path / "data", members(below=folder), packed))


def test_folders_between_alphabets_and_characters_are_refused(tmp_path):
    between = {n.replace("/character", "/rot000/character"): d for n, d in members().items()}
    with pytest.raises(ValueError, match=r"Anglo-Saxon_Futhorc and in .*Armenian"):
        omniglot("train", write(tmp_path / "data", between, True))


def test_a_copy_under_another_name_is_refused(tmp_path):
    copy = {n.replace("/Armenian/", "/Armenian copy/"): d for n, d in members().items()}
    root = write(tmp_path / "data", {**members(), **copy}, False)
    message = "Armenian copy/character01 and Armenian/character01 hold the same files"
    with pytest.raises(ValueError, match=message):
        omniglot("train", root)


def test_a_linked_alphabet_is_read_and_one_linked_twice_is_refused(tmp_path):
    root = write(tmp_path / "data", members(), False)
    shutil.move(root / STEM / "Greek", tmp_path / "elsewhere")
    (root / STEM / "Greek").symlink_to(tmp_path / "elsewhere")
    check(root)
    (root / STEM / "Hellenic").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"(Greek|Hellenic) are one folder: remove the link"):
        omniglot("train", root)


def test_backslashes_and_litter_are_read_as_they_should(tmp_path):
    contents = {n.replace("/", "\\"): d for n, d in members().items()}
    contents |= {f"__MACOSX\\{n}": b"" for n in contents} | {f"{STEM}\\.DS_Store": b""}
    check(write(tmp_path / "data", contents, True))


@pytest.mark.parametrize("change, message", [(-1, "2 images, others 3"), (1, "4 images, others 3")])
def test_the_class_that_differs_is_named_and_not_the_others(tmp_path, change, message):
    contents = members()
    if change < 0:
        del contents[f"{STEM}/Greek/character02/01.png"]
    else:
        contents[f"{STEM}/Greek/character02/9.png"] = picture(drawing(99))
    with pytest.raises(ValueError, match=rf"Greek/character02 in .*: it has {message}"):
        omniglot("train", write(tmp_path / "data", contents, True))


def test_the_evaluation_set_is_not_a_copy_of_the_background_set(tmp_path):
    root = write(tmp_path / "data", members("images_evaluation"), False)
    with pytest.raises(ValueError, match=r"must not hold Anglo-Saxon_Futhorc, an alphabet for val"):
        omniglot("test", root)
