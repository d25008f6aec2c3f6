"""The tool that makes the sheet: names, near-duplicates, and the drawings themselves."""

from importlib.metadata import version

import numpy as np
import pytest
from emoji_data import duplicates, names, packages
from emoji_data.drawing import RENDERER, draw

from metalearn_tut.tasks.emoji.index import read_index
from metalearn_tut.tasks.emoji.sheet import read_tiles

INDEX = read_index()


@pytest.fixture(scope="module")
def archives():
    """The packages that the sheet is made of, or skip: nobody but the tool needs them."""
    files = [packages.FOLDER / of.package.file for of in packages.SETS.values()]
    if not all(file.is_file() for file in (*files, packages.FOLDER / packages.UNICODE.file)):
        pytest.skip("the packages of drawings are not there: tools/emoji_sheet.py fetches them")
    packages.fetch()


def test_the_index_names_the_packages_of_the_tool():
    for of in INDEX.sets:
        drawings = packages.SETS[of.name]
        assert of.package == f"{drawings.package.name} {drawings.package.version}"
        assert (of.house, of.artist, of.sha256) == (
            drawings.house,
            drawings.artist,
            drawings.package.sha256,
        )


def test_the_sheet_is_what_the_packages_draw(archives):
    pytest.importorskip("resvg_py", reason="only the tool needs it")
    if version("resvg-py") != RENDERER:
        pytest.skip(f"the sheet was drawn by resvg-py {RENDERER}")

    found = names.drawings_of(names.unicode_list())
    for tile in range(7, len(INDEX.tiles), 400):
        s, c = INDEX.tiles[tile]
        name, of = INDEX.sets[s].name, INDEX.classes[c]
        icons = packages.read(packages.SETS[name].package, "icons.json")
        assert (draw(icons, found[of.code_point][name]) == read_tiles()[tile]).all(), of.name


def test_another_package_under_the_same_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.subprocess, "run", lambda *a, **k: pytest.fail("no download"))
    for of in packages.SETS.values():
        (tmp_path / of.package.file).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"noto-1\.2\.9\.tgz must have sha256 \w{64}, got"):
        packages.fetch(tmp_path)


def test_names_are_compared_without_what_sets_spell_differently():
    assert names.squashed("Woman’s boot") == names.squashed("womans-boot") == "womansboot"
    assert names._bare("2764-fe0f") == "2764" and names._bare("0023-FE0F-20E3") == "23-20E3"


def test_distances_are_those_of_the_definition():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4)).astype(np.uint8)
    found = duplicates.distances(images)
    for i in range(6):
        for j in range(6):
            a, b = (255.0 - images[k].ravel() for k in (i, j))
            wanted = np.linalg.norm(a - b) / np.sqrt((a @ a + b @ b) / 2)
            assert found[i, j] == pytest.approx(wanted, abs=1e-6)


def test_of_near_duplicates_the_first_stays():
    image = np.full((3, 8, 8), 255, np.uint8)
    image[0] = 0
    near, nearer, far = image.copy(), image.copy(), 255 - image
    near[0, :3, 0] = 255  # 3 of 64 pixels without ink: 0.22
    nearer[0, 0, 0] = 240
    images = np.stack([image, near, nearer, far])
    assert duplicates.COPY > duplicates.distances(images)[0, 1] > duplicates.TWIN
    assert duplicates.keep(images, [0, 0, 0, 0]).tolist() == [True, False, False, True]
    assert duplicates.keep(images, [0, 1, 2, 3]).tolist() == [True, True, False, True]


def test_a_drawing_that_is_near_to_one_left_out_stays():
    images = np.full((3, 3, 8, 8), 255, np.uint8)
    for i, image in enumerate(images):
        image[0].reshape(-1)[3 * i :] = 0  # each without three more pixels of ink
    first, second = duplicates.distances(images)[[0, 0], [1, 2]]
    assert first < duplicates.COPY < second
    assert duplicates.keep(images, [0, 0, 0]).tolist() == [True, False, True]
