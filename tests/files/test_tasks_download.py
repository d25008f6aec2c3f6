"""Downloads: resumed, checked, whole or not at all, against servers that behave and do not."""

import hashlib
import http.server
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from metalearn_tut.files.download import download

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
