"""What lies in the package: the sheet, its index, its splits, and the page that describes them."""

import hashlib
import re
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path

import emoji_page
import numpy as np
import pytest
from emoji_data import choosing, duplicates

from metalearn_tut import tasks
from metalearn_tut.tasks.emoji import index as emoji_index
from metalearn_tut.tasks.emoji import sheet as emoji_sheet
from metalearn_tut.tasks.emoji import splits as emoji_splits
from metalearn_tut.tasks.emoji.sheet import joined, read_tiles, shrunk, tiles_of
from metalearn_tut.tasks.source import SPLITS

ROOT = Path(__file__).parents[2]
INDEX = emoji_index.read_index()
SHEET = Path(emoji_sheet.__file__).with_name(INDEX.sheet)
SPLIT = [emoji_splits.split_of(of) for of in INDEX.classes]


def test_the_sheet_is_the_one_of_the_index_and_small():
    assert hashlib.sha256(SHEET.read_bytes()).hexdigest() == INDEX.sha256
    assert SHEET.stat().st_size <= 6_000_000
    assert read_tiles().shape == (len(INDEX.tiles), 3, 32, 32)
    assert not read_tiles().flags.writeable


def test_every_drawing_has_an_artist_a_house_and_one_of_three_licenses():
    for of in INDEX.sets:
        assert of.license in ("Apache-2.0", "MIT", "CC-BY-4.0")
        assert all(of) and of.license_url.startswith("https://")
        assert re.fullmatch(r"@iconify-json/[\w-]+ \d+\.\d+\.\d+", of.package)
        assert re.fullmatch(r"[0-9a-f]{64}", of.sha256)
    assert emoji_index.houses() == (
        "noto",
        "fluent",
        "twemoji",
        "emojione",
        "fxemoji",
        "streamline",
    )
    assert Counter(of.house for of in INDEX.sets)["noto"] == 2


def test_every_class_is_one_emoji_drawn_by_five_sets_or_more():
    assert len({of.code_point for of in INDEX.classes}) == len(INDEX.classes)
    assert len({of.name for of in INDEX.classes}) == len(INDEX.classes)
    for of in INDEX.classes:
        assert 5 <= len(set(of.sets)) == len(of.sets) <= 7, of.name
        assert set(of.sets) <= set(range(len(INDEX.sets)))
        assert re.fullmatch(r"[0-9A-F]{4,5}(-[0-9A-F]{4,5})*", of.code_point)


def test_a_code_point_is_the_emoji_of_that_name():
    named = {of.name: of.code_point for of in INDEX.classes}
    for name, character in {
        "frog": "🐸",
        "tulip": "🌷",
        "grinning face": "😀",
        "bug": "🐛",
    }.items():
        assert named[name] == f"{ord(character):X}"


def test_every_class_is_in_one_split_and_whole_subgroups_are_held_out():
    stored = emoji_splits.read_splits()["classes"]
    assert set(stored) == set(SPLITS)
    listed = [value for parts in stored.values() for kind in parts.values() for value in kind]
    assert len(listed) == len(set(listed))
    assert set(listed) <= {of.subgroup for of in INDEX.classes} | {of.name for of in INDEX.classes}
    exceptions = {name for parts in stored.values() for name in parts["emoji"]}
    where = defaultdict(set)
    for of, split in zip(INDEX.classes, SPLIT, strict=True):
        if of.name not in exceptions:
            where[of.subgroup].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert len(exceptions) <= 5


@pytest.mark.parametrize(
    ("start", "others"),
    [("face-", {"face-costume"}), ("hand", set()), ("person", {"person-symbol"})],
)
def test_faces_hands_and_people_are_in_one_split_whatever_their_subgroup(start, others):
    found = {
        split
        for of, split in zip(INDEX.classes, SPLIT, strict=True)
        if of.subgroup.startswith(start) and of.subgroup not in others
    }
    assert len(found) == 1


def test_the_splits_have_the_shares_they_should_and_most_groups():
    share = {split: count / len(SPLIT) for split, count in Counter(SPLIT).items()}
    for split, wanted in {"train": 0.65, "validation": 0.10, "test": 0.25}.items():
        assert abs(share[split] - wanted) < 0.03
        groups = {of.group for of, s in zip(INDEX.classes, SPLIT, strict=True) if s == split}
        assert len(groups) == 8


def test_houses_are_held_out_two_by_two():
    held = emoji_splits.read_splits()["houses"]
    assert [len(held[split]) for split in SPLITS] == [2, 2, 2]
    assert sorted(chain.from_iterable(held.values())) == sorted(emoji_index.houses())


def test_no_two_drawings_of_different_splits_are_nearly_the_same():
    split = np.array([SPLITS.index(SPLIT[c]) for _, c in INDEX.tiles])
    near = duplicates.distances(read_tiles()) < duplicates.COPY
    assert not near[split[:, None] != split].any()


def test_no_two_drawings_of_a_class_are_copies_and_no_two_classes_share_one():
    classes = np.array([c for _, c in INDEX.tiles])
    distance = duplicates.distances(read_tiles())
    np.fill_diagonal(distance, 9)
    same = classes[:, None] == classes
    assert distance[same].min() >= duplicates.COPY
    assert distance[~same].min() >= duplicates.TWIN


def test_what_was_left_out_is_not_there_and_has_a_reason():
    rows = choosing.left_out()
    assert len(rows) == len({(r["kind"], r["what"], r["set"]) for r in rows})
    subgroups = {of.subgroup for of in INDEX.classes}
    sets = {of.name: {INDEX.sets[s].name for s in of.sets} for of in INDEX.classes}
    for row in rows:
        assert row["reason"].strip()
        if row["kind"] == "subgroup":
            assert row["what"] not in subgroups
        elif row["kind"] == "emoji":
            assert row["what"] not in sets
        else:
            assert row["kind"] == "image" and row["set"] not in sets.get(row["what"], set())


def test_no_flag_clock_button_or_variant_is_a_class():
    words = r"\b(flag|o’clock|thirty|button|keycap|family|skin tone)\b|^(man|woman)\b|: (man|woman)"
    found = {of.name for of in INDEX.classes if re.search(words, of.name)}
    assert found == {
        "closed mailbox with raised flag",
        "flag in hole",
        "man’s shoe",
        "woman’s boot",
        "woman’s clothes",
        "woman’s hat",
        "woman’s sandal",
    }


def test_the_license_file_names_every_set_with_its_authors_and_license():
    text = (ROOT / "LICENSE-DATA").read_text("utf-8")
    for of in INDEX.sets:
        lines = [line for line in text.splitlines() if line.startswith(of.artist + "  ")]
        assert any(of.source in line and of.license in line for line in lines), of.artist
    licenses = {of.name: of.license for of in INDEX.sets}
    assert licenses["fxemoji"] == "CC-BY-4.0"  # of the drawings; the package says that of the code
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert "Copyright (c) Microsoft Corporation" in text
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text


def test_a_notice_for_each_set_counts_its_drawings():
    notices = emoji_index.notices()
    assert len(notices) == len(INDEX.sets)
    counted = [int(re.search(r": (\d+) drawings", notice)[1]) for notice in notices]
    assert sum(counted) == len(INDEX.tiles)
    for notice, of in zip(notices, INDEX.sets, strict=True):
        assert notice.startswith(of.artist) and of.license in notice and of.license_url in notice


def test_the_counts_of_the_card_are_those_of_the_sources():
    parts = emoji_page.generated()
    for split in SPLITS:
        source = tasks.emoji(split)
        row = rf"\| `class` \| {split} \| all \| {source.n_classes} \| {len(source.images):,} \|"
        assert re.search(row, parts["splits"])
    totals = " | ".join(str(tasks.emoji(split).n_classes) for split in SPLITS)
    assert f"| all | {totals} |" in parts["groups"]
    for of in INDEX.classes:
        assert re.search(rf"\W{re.escape(of.name)}\W", parts["subgroups"]), of.name


def test_the_card_takes_a_method_from_every_file_of_results(tmp_path):
    folder = tmp_path / "results" / "emoji"
    folder.mkdir(parents=True)
    row = '{"method": "M", "split_by": "both", "cross_artist": false, "ways": 20, '
    row += '"accuracy": 0.5, "half_width": 0.01}'
    (folder / "learners.json").write_text(f'{{"values": {{"rows": [{row}]}}}}')
    text = emoji_page.accuracies(tmp_path)
    assert "| new things by new artists | M |  | 0.500 ± 0.010 |" in text
    for accuracy in (0.48, 0.52):  # and now the interval is over trainings: 4.303 * 0.02 / root 3
        more = row.replace('"accuracy": 0.5,', f'"accuracy": {accuracy},')
        (folder / f"{accuracy}.json").write_text(f'{{"values": {{"rows": [{more}]}}}}')
    text = emoji_page.accuracies(tmp_path)
    assert "| new things by new artists | M, 3 trainings |  | 0.500 ± 0.050 |" in text


@pytest.mark.parametrize("size", [8, 11, 16, 24, 31])
def test_shrinking_is_the_mean_of_the_area_that_a_pixel_covers(size):
    images = read_tiles()[::500]
    fine = images.repeat(size, axis=2).repeat(size, axis=3).astype(np.int64)
    blocks = fine.reshape(len(images), 3, size, 32, size, 32).sum(axis=(3, 5))
    assert (shrunk(images, size) == (blocks + 512) // 1024).all()


def test_a_sheet_is_put_together_and_cut_apart_again():
    tiles = np.arange(5 * 3 * 32 * 32).astype(np.uint8).reshape(5, 3, 32, 32)
    sheet = joined(tiles, columns=2)
    assert sheet.shape == (96, 64, 3) and (sheet[64:, 32:] == 255).all()
    assert (sheet[32:64, 32:] == tiles[3].transpose(1, 2, 0)).all()


def test_a_damaged_or_missing_sheet_is_refused(tmp_path):
    data = bytearray(SHEET.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "sheet.webp").write_bytes(data)
    with pytest.raises(ValueError, match=r"sheet\.webp is damaged: its sha256 must be .*again"):
        tiles_of(tmp_path / "sheet.webp", INDEX)
    with pytest.raises(ValueError, match=r"none\.webp is missing: .*install metalearn-tut again"):
        tiles_of(tmp_path / "none.webp", INDEX)


def test_a_class_without_a_split_is_refused():
    with pytest.raises(ValueError, match="no split has 'x' of 'y'"):
        emoji_splits.split_of(INDEX.classes[0]._replace(name="x", subgroup="y"))
