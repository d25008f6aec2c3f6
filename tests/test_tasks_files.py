"""Finding, reading and downloading files: what is damaged is named, nothing is half-written."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalearn_tut.tasks import files
from metalearn_tut.tasks.download import download

MEMBERS = {"b/two.png": b"second", "a/one.PNG": b"first", "note.txt": b"x"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALEARN_TUT_DATA", raising=False)
    return tmp_path / "cache"


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_tar(path, members):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(path, members):
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


# --- where files are looked for ---------------------------------------------------------


def test_root_is_the_only_place_when_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_TUT_DATA", "/elsewhere")
    assert files.data_folders("omniglot", tmp_path) == [tmp_path / "omniglot", tmp_path]


def test_data_variable_comes_before_the_cache(tmp_path, cache, monkeypatch):
    assert files.data_folders("x", None) == [cache / "x", cache]
    monkeypatch.setenv("METALEARN_TUT_DATA", str(tmp_path))
    assert files.data_folders("x", None) == [tmp_path / "x", tmp_path, cache / "x", cache]


def test_absent_file_says_what_where_and_how():
    error = files.absent("omniglot", "a.zip", ["/p", "/q"], "Get it with `command`.")
    assert isinstance(error, FileNotFoundError)
    assert str(error) == "omniglot needs a.zip; not found in /p, /q. Get it with `command`."


# --- reading ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write, name",
    [(write_zip, "d.zip"), (write_tar, "d.tar"), (write_tar, "d.tar.gz"), (write_folder, "d")],
)
def test_a_zip_a_tar_and_a_folder_read_alike(tmp_path, write, name):
    hidden = {"__MACOSX/a/._one.PNG": b"", ".DS_Store": b"", "a/.hidden.png": b""}
    path = write(tmp_path / name, {**MEMBERS, **hidden})
    with files.opened(path) as (names, read):
        assert names == ["a/one.PNG", "b/two.png", "note.txt"]
        assert files.image_names(names) == ["a/one.PNG", "b/two.png"]
        assert {name: read(name) for name in names} == MEMBERS


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz"])
def test_truncated_archive_is_named(tmp_path, name):
    members = {f"{i}.png": np.random.default_rng(i).bytes(3000) for i in range(9)}
    path = (write_zip if name == "d.zip" else write_tar)(tmp_path / name, members)
    path.write_bytes(path.read_bytes()[:5000])
    message = rf"cannot read .*{name}.*fetch the file again"
    with pytest.raises(ValueError, match=message), files.opened(path):
        pass


def test_altered_member_of_a_zip_is_named(tmp_path):
    path = write_zip(tmp_path / "d.zip", MEMBERS)
    path.write_bytes(path.read_bytes().replace(b"second", b"sekond"))
    with files.opened(path) as (_, read):
        assert read("a/one.PNG") == b"first"
        with pytest.raises(ValueError, match=r"cannot read b/two\.png in .*d\.zip: .*CRC"):
            read("b/two.png")


def test_error_of_the_caller_keeps_its_kind(tmp_path):
    with pytest.raises(KeyError, match="mine"), files.opened(write_zip(tmp_path / "d.zip", {})):
        raise KeyError("mine")


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_undecodable_images_are_named():
    whole = png(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    for data in (b"no image", whole[: len(whole) // 2], b""):
        with pytest.raises(ValueError, match=r"cannot decode the image x\.png in d\.zip"):
            files.decode(data, "x.png in d.zip")


def test_decode_rgb_puts_channels_first_and_keeps_pixels():
    array = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    decoded = files.decode_rgb(png(array), "x", 5)
    assert decoded.shape == (3, 5, 5) and decoded.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(decoded[channel], array[:, :, channel])


def test_decode_rgb_resizes_and_repeats_gray():
    decoded = files.decode_rgb(png(np.full((9, 7), 77, np.uint8)), "x", 4)
    assert decoded.shape == (3, 4, 4) and (decoded == 77).all()


# --- what was decoded is kept -----------------------------------------------------------


def test_fingerprint_follows_contents_and_settings(tmp_path):
    path = write_folder(tmp_path / "d", MEMBERS)
    first = files.fingerprint([path], 28)
    assert files.fingerprint([path], 28) == first
    assert files.fingerprint([path], 84) != first
    (path / "note.txt").write_bytes(b"longer")
    assert files.fingerprint([path], 28) != first


def test_cached_arrays_builds_once(cache):
    calls = []

    def build():
        calls.append(1)
        return {"x": np.arange(1000), "names": np.array(["a", "b"])}

    first, second = (files.cached_arrays("thing", build) for _ in range(2))
    assert len(calls) == 1
    np.testing.assert_array_equal(first["x"], second["x"])
    assert second["names"].tolist() == ["a", "b"]
    assert [file.name for file in cache.iterdir()] == ["thing.npz"]


@pytest.mark.parametrize("damage", ["truncate", "alter"])
def test_damaged_cache_is_built_again(cache, damage):
    def build():
        return {"x": np.arange(1000)}

    files.cached_arrays("thing", build)
    path = cache / "thing.npz"
    data = bytearray(path.read_bytes())
    data[4000] ^= 255
    path.write_bytes(data[:4000] if damage == "truncate" else data)
    np.testing.assert_array_equal(files.cached_arrays("thing", build)["x"], np.arange(1000))
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["x"], np.arange(1000))


def test_interrupted_build_leaves_nothing(cache):
    def build():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.cached_arrays("thing", build)
    assert not cache.exists() or not list(cache.iterdir())


# --- downloads --------------------------------------------------------------------------

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@contextmanager
def server(content=CONTENT, ranges=True, stop_after=None):
    """A web server with one file; ``seen`` lists the Range header of each request."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            seen.append(asked)
            begin = int(asked.removeprefix("bytes=").rstrip("-")) if ranges and asked else 0
            body = content[begin:]
            if self.path != "/data.bin":
                self.send_error(404)
                return
            if begin >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if begin else 200)
            if begin:
                span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:stop_after])

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/data.bin", seen
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def in_folder(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_download_saves_the_file_and_nothing_else(tmp_path):
    with server() as (url, seen):
        path = download(url, SHA256, tmp_path / "new")
    assert path == tmp_path / "new" / "data.bin" and seen == [None]
    assert in_folder(tmp_path / "new") == {"data.bin": CONTENT}


def test_truncated_download_is_refused_and_then_continued(tmp_path):
    with (
        server(stop_after=100_000) as (url, _),
        pytest.raises(ConnectionError, match=r"broke before the end; 65,536 bytes are kept"),
    ):
        download(url, SHA256, tmp_path)
    assert in_folder(tmp_path) == {"data.bin.part": CONTENT[:65536]}  # whole chunks only
    with server() as (url, seen):
        download(url, SHA256, tmp_path)
    assert seen == ["bytes=65536-"]
    assert in_folder(tmp_path) == {"data.bin": CONTENT}


def test_server_without_ranges_sends_all_again(tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:70_000])
    with server(ranges=False) as (url, seen):
        download(url, SHA256, tmp_path)
    assert seen == ["bytes=70000-"]
    assert in_folder(tmp_path) == {"data.bin": CONTENT}


def test_altered_download_is_refused_and_not_kept(tmp_path):
    altered = CONTENT[:1000] + b"!" + CONTENT[1001:]
    with (
        server(altered) as (url, _),
        pytest.raises(ValueError, match=r"data\.bin was refused: its SHA-256 is not"),
    ):
        download(url, SHA256, tmp_path)
    assert in_folder(tmp_path) == {}


def test_altered_part_is_refused_and_the_next_attempt_begins_anew(tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"!" + CONTENT[1:70_000])
    with server() as (url, seen):
        with pytest.raises(ValueError, match="refused"):
            download(url, SHA256, tmp_path)
        assert in_folder(tmp_path) == {}
        download(url, SHA256, tmp_path)
    assert seen == ["bytes=70000-", None]
    assert in_folder(tmp_path) == {"data.bin": CONTENT}


@pytest.mark.parametrize("part, requests", [(CONTENT, 1), (CONTENT + b"more", 2)])
def test_part_that_reaches_the_end_is_taken_or_begun_anew(tmp_path, part, requests):
    (tmp_path / "data.bin.part").write_bytes(part)
    with server() as (url, seen):
        download(url, SHA256, tmp_path)
    assert len(seen) == requests
    assert in_folder(tmp_path) == {"data.bin": CONTENT}


def test_missing_page_and_silent_server_are_connection_errors(tmp_path):
    with (
        server() as (url, _),
        pytest.raises(ConnectionError, match=r"download of .*other.bin stopped: 404"),
    ):
        download(url.replace("data", "other"), SHA256, tmp_path)
    with pytest.raises(ConnectionError, match=r"download of .*data.bin stopped"):
        download(url, SHA256, tmp_path)
    assert in_folder(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_full_disk_while_downloading_names_the_file(tmp_path):
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with (
        server() as (url, _),
        pytest.raises(OSError, match=r"cannot write .*data\.bin\.part: No space left"),
    ):
        download(url, SHA256, tmp_path)
    assert not (tmp_path / "data.bin").exists()
