"""What ``metalearn-tut demo`` does."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import metadata
from pathlib import Path

from metalearn_tut.cli.options import Demo

PAGE = "teach/index.html"
_NOBODY = "YOUR_ACCOUNT"  # as long as nobody hosts the project


def demo(o: Demo, arguments: Sequence[str]) -> None:
    """Open the page that learns what is drawn on it, or serve it."""
    book = next((folder for folder in _places(o.book) if (folder / PAGE).is_file()), None)
    if o.port is not None:
        if book is None:
            raise FileNotFoundError(_absent(o.book))
        _serve(book, o.port)
        return
    address = (book / PAGE).as_uri() if book else _hosted(o.book)
    opened = webbrowser.open(address)
    print(address if opened else f"{address}\nno browser could be started: open this page in one")


def _places(given: Path | None) -> Iterator[Path]:
    """Folders that may hold the page: the one given alone, else those of a clone."""
    if given is not None:
        yield given.absolute()
        return
    for root in (Path(__file__).parents[3], Path.cwd()):
        yield from (root / "_build/html", root / "book/_extra")


def _hosted(given: Path | None) -> str:
    """The page on the site of the repository that the package was installed from."""
    addresses = metadata("metalearn-tut").get_all("Project-URL") or []
    (repository,) = (a.split(", ")[1] for a in addresses if a.startswith("Repository, "))
    if given is not None or _NOBODY in repository:
        raise FileNotFoundError(_absent(given))
    owner, name = repository.rstrip("/").split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/{PAGE}"


def _absent(given: Path | None) -> str:
    if given is not None:
        return f"--book {given}: there is no {PAGE} in it"
    return (
        f"the demo is a page of the book, and there is no {PAGE} near this package: run this in "
        "a clone of the repository, or name the folder of the unzipped book with --book"
    )


def _serve(book: Path, port: int) -> None:
    """Until Ctrl-C."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(quiet, directory=str(book)))
    except OSError as error:
        raise OSError(f"--port {port}: {error.strerror or error}") from error
    print(f"http://127.0.0.1:{server.server_port}/{PAGE}\nCtrl-C ends it", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
