"""Files are written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from metalearn_tut.files.cache import atomic_write, cache_dir


def test_environment_variable_names_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    assert not cache_dir().exists()


def test_default_is_in_the_users_cache_folder(monkeypatch):
    monkeypatch.delenv("METALEARN_TUT_CACHE", raising=False)
    assert "metalearn-tut" in cache_dir().parts


def test_file_appears_whole_with_its_folder_and_ordinary_permissions(tmp_path):
    path = tmp_path / "new" / "data.npy"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npy"
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError("bad"), OSError("odd")])
def test_failure_keeps_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    kind = failure if isinstance(failure, type) else type(failure)
    with pytest.raises(kind), atomic_write(path) as temporary:
        temporary.write_bytes(b"ne")
        raise failure
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is open")
def test_reader_of_the_old_file_sees_all_of_it(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    with path.open("rb", buffering=0) as reader:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


def test_full_disk_is_one_sentence_that_names_the_path(tmp_path):
    path = tmp_path / "data.bin"
    with pytest.raises(OSError) as caught, atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert f"cannot write {path}: No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full_is_refused(tmp_path):
    path = tmp_path / "data.bin"
    with pytest.raises(OSError, match=r"cannot write .*data\.bin"), atomic_write(path) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"no room")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(OSError, match=r"cannot write .*data\.bin"),
        atomic_write(tmp_path / "file" / "data.bin"),
    ):
        pass


def test_body_that_writes_nothing_is_refused(tmp_path):
    path = tmp_path / "data.bin"
    with pytest.raises(OSError, match=r"cannot write .*data\.bin"), atomic_write(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "data.bin"
    with atomic_write(path) as first:
        with atomic_write(path) as second:
            assert first != second
            second.write_bytes(b"second")
            first.write_bytes(b"first")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
