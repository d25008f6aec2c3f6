"""Archives that mean harm, or come from other systems: refused by size and path, or read."""

import io
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest
from stored import picture, written

from metalearn_tut.files import archives
from metalearn_tut.tasks import cifar10, files, image_folder, mini_imagenet, omniglot

pytestmark = pytest.mark.usefixtures("own_cache")

write_zip = partial(written, compression=zipfile.ZIP_DEFLATED)
NOISE = np.random.default_rng(0)


def listed(path):
    with files.opened(path) as (names, _):
        return names


def nothing_was_written(folder):
    return not any(p.is_file() for p in folder.rglob("*")) if folder.exists() else True


# --- out of the folder ------------------------------------------------------------------

OUTSIDE = ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "c:evil.png"]
OUTSIDE += ["..\\evil.png", "a\\..\\..\\evil.png", "\\\\server\\share\\evil.png", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_member_outside_the_folder_refuses_the_archive(tmp_path, name, kind):
    write = write_zip if kind == "a.zip" else written
    path = write(tmp_path / kind, {"b/good.png": b"x", name: b"y"})
    with pytest.raises(ValueError, match=r"refused: .*would lie outside the archive's folder"):
        listed(path)


@pytest.mark.parametrize("name", ["a..b/c.png", "..a/b.png", "a/b..png", "./a/b.png", "a/c:d.png"])
def test_names_that_only_look_so_are_read(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {name: b"y"})
    assert listed(path) == ([] if name.startswith("..a") else [name.removeprefix("./")])


def a_link(kind):
    info = tarfile.TarInfo("b/link.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_device_in_a_tar_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(a_link(kind))
    with pytest.raises(ValueError, match=r"refused: b/link\.png in .*a\.tar is a link or device"):
        listed(tmp_path / "a.tar")


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("b/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match=r"b/link\.png in .*a\.zip is a link or device; unpack"):
        listed(tmp_path / "a.zip")


# --- bombs ------------------------------------------------------------------------------


def test_a_member_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"b/1.png": bytes(32 << 20)})
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"b/1\.png in .*to 33,554,432 bytes, more than 200 times"):
        listed(path)


def test_many_small_members_are_added_up(tmp_path):
    """None is large, and together they are a bomb."""
    path = write_zip(tmp_path / "a.zip", {f"b/{i}.png": bytes(1 << 20) for i in range(20)})
    with pytest.raises(ValueError, match=r"a\.zip unpacks from .* to 17,825,792 bytes"):
        listed(path)


def test_a_compressed_tar_is_left_at_the_first_header(tmp_path, monkeypatch):
    path = written(tmp_path / "a.tar.gz", {"b/1.png": bytes(32 << 20), "b/2.png": b"x"})
    read = []
    original = tarfile.TarFile.extractfile
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda *a: read.append(a) or original(*a))
    with pytest.raises(ValueError, match=r"b/1\.png in .*more than 200 times"):
        listed(path)
    assert not read


def declaring(path, size):
    """A zip whose only member declares another size than it has, in both of its headers."""
    write_zip(path, {"b/1.png": bytes(4 << 20)})
    data = bytearray(path.read_bytes())
    for start, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(start) + at, size)
    path.write_bytes(data)
    return path


def test_a_member_that_declares_too_much_is_not_looked_into(tmp_path):
    with pytest.raises(ValueError, match=r"unpacks to 4,000,000,000 bytes, more than 536,870,912"):
        listed(declaring(tmp_path / "a.zip", 4_000_000_000))


def test_a_member_that_declares_too_little_yields_no_more(tmp_path):
    with files.opened(declaring(tmp_path / "a.zip", 1000)) as (names, read):
        assert names == ["b/1.png"]
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"cannot read b/1\.png in .*CRC"):
            read("b/1.png")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20  # of the 4 MiB that it would be


def test_the_limits_are_constants_with_names(tmp_path, monkeypatch):
    noise = NOISE.bytes(1000)
    zipped, tarred = (
        write_zip(tmp_path / "a.zip", {"a": noise, "b": noise}),
        written(tmp_path / "a.tar", {"a": noise, "b": noise}),
    )
    assert listed(zipped) == listed(tarred) == ["a", "b"]
    for name, path, limit in (
        ("MAX_MEMBER", zipped, 999),
        ("MAX_TOTAL", zipped, 1999),
        ("MAX_TAR", tarred, 1999),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archives, name, limit)
            with pytest.raises(ValueError, match=f"more than {limit:,}$"):
                listed(path)


def png(seed=0, side=12):
    return picture(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


LOADERS = {
    "image_folder": ("mine.zip", lambda root: image_folder(root / "mine.zip")),
    "omniglot": ("images_background.zip", lambda root: omniglot("train", root)),
    "mini_imagenet": ("n01930112.zip", lambda root: mini_imagenet("test", root)),
    "cifar10": ("test/airplane.zip", lambda root: cifar10("test", root)),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("harm", ["bomb", "climb"])
def test_every_loader_refuses_before_it_reads_or_writes(tmp_path, own_cache, loader, harm):
    from metalearn_tut.tasks.cifar10 import CLASSES

    root = tmp_path / "data"
    name, load = LOADERS[loader]
    (root / "test").mkdir(parents=True)
    (root / "splits.json").write_text('{"train": ["a"], "val": ["b"], "test": ["n01930112"]}')
    for c in CLASSES[1:]:
        write_zip(root / "test" / f"{c}.zip", {"1.png": png()})
    bad = {"a/b/c.png": bytes(32 << 20)} if harm == "bomb" else {"../../evil.png": png()}
    write_zip(root / name, {"a/b/good.png": png(), **bad})
    with pytest.raises(ValueError, match="refused: "):
        load(root)
    assert nothing_was_written(own_cache) and not list(tmp_path.rglob("evil.png"))


# --- from other systems -----------------------------------------------------------------


def test_backslashes_are_folders_in_zips_tars_and_folders(tmp_path):
    members = {"Greek\\character01\\1.png": b"1", "Greek\\character02\\2.png": b"2"}
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, data in members.items():  # what unzip makes of them here
        (folder / name).write_bytes(data)
    for path in (
        write_zip(tmp_path / "a.zip", members),
        written(tmp_path / "a.tar", members),
        folder,
    ):
        with files.opened(path) as (names, read):
            assert names == ["Greek/character01/1.png", "Greek/character02/2.png"]
            assert [read(name) for name in names] == [b"1", b"2"]


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    litter = ["__MACOSX/a/._1.png", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/._1.png"]
    litter += [
        "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/x.png",
        ".ipynb_checkpoints/1.png",
    ]
    members = dict.fromkeys([*litter, "a/1.png"], b"x")
    assert listed(write_zip(tmp_path / "a.zip", members)) == ["a/1.png"]
    assert listed(written(tmp_path / "a.tar", members)) == ["a/1.png"]
    for name in members:
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"x")
    assert listed(tmp_path / "f") == ["a/1.png"]


def test_the_same_name_twice_is_refused(tmp_path):
    for kind in ("a.zip", "a.tar"):
        path = tmp_path / kind
        if kind == "a.zip":
            with (
                pytest.warns(UserWarning, match="Duplicate"),
                zipfile.ZipFile(path, "w") as archive,
            ):
                archive.writestr("b/1.png", b"1")
                archive.writestr("b/1.png", b"2")
        else:
            with tarfile.open(path, "w") as archive:
                for name in ("b/1.png", "./b/1.png"):
                    archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(ValueError, match=rf"{kind} holds b/1\.png twice"):
            listed(path)


def test_capital_suffixes_and_accents_apart_are_read_alike(tmp_path):
    composed, apart = "\u00e9.png", "e\u0301.png"  # the same letter, as Linux and macOS write it
    orders = [
        [
            n.removesuffix(".png")
            for n in listed(write_zip(tmp_path / kind, {n: b"" for n in names}))
        ]
        for kind, names in (("A.ZIP", [composed, "f.png"]), ("b.zip", ["f.png", apart]))
    ]
    assert [order.index("f") for order in orders] == [0, 0]


# --- links in folders -------------------------------------------------------------------


def test_linked_folders_are_read_and_part_of_what_the_cache_goes_by(tmp_path):
    (tmp_path / "real" / "Greek").mkdir(parents=True)
    (tmp_path / "real" / "Greek" / "1.png").write_bytes(b"1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Greek").symlink_to(tmp_path / "real" / "Greek")
    assert listed(tmp_path / "data") == ["Greek/1.png"]
    before = files.fingerprint([tmp_path / "data"])
    (tmp_path / "real" / "Greek" / "1.png").write_bytes(b"2")
    assert files.fingerprint([tmp_path / "data"]) != before


@pytest.mark.parametrize("target", [".", "..", "../b"])
def test_a_folder_that_is_reached_twice_is_refused(tmp_path, target):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(b"")
    (tmp_path / "data" / "a" / "loop").symlink_to(target)
    with pytest.raises(ValueError, match=r"data.* and .*are one folder: remove the link"):
        listed(tmp_path / "data")


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with files.opened(tmp_path / "data") as (names, read):
        assert names == ["gone.png"]
        with pytest.raises(ValueError, match=r"cannot read gone\.png in .*data"):
            read("gone.png")


def test_a_file_of_the_same_size_and_time_is_noticed(tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(b"first")
    before, times = files.fingerprint([path]), path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert files.fingerprint([path]) != before
