"""Check a built book: ``python tools/check_book.py HTML BOOK NOTEBOOKS``.

HTML is the folder of built pages, BOOK the sources with ``_toc.yml``, NOTEBOOKS the executed
notebooks. Every page must be there; every cell must have run, in order, and made its comparisons;
every figure must stand on its page with its alternative text; no page may show a warning or an
unplanned traceback, point to something that is not there, or need the network to be read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from contract_code import code_cells, comparisons, tagged
from run_notebook import compares_file

INDEPENDENT = {"closed form", "finite difference"}


class Page(HTMLParser):
    """What a page holds: anchors, links, images, and the classes of its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.images: list[tuple[str, str]] = []  # address, alternative text
        self.assets: list[str] = []
        self.classes: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one element contributes."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        self.classes += values.get("class", "").split()
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "img":
            self.images.append((values.get("src", ""), values.get("alt", "")))
        elif values.get("role") == "img":  # a figure that moves
            self.images.append(("", values.get("aria-label", "")))
        elif tag == "script" and "src" in values:
            self.assets.append(values["src"])
        elif tag == "link" and "stylesheet" in values.get("rel", "").split():
            self.assets.append(values.get("href", ""))


def toc_names(node: object) -> Iterator[str]:
    """Every page name in a table of contents, depth first."""
    if isinstance(node, dict):
        yield from (node[key] for key in ("root", "file") if key in node)
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from toc_names(child)


def broken(page: Page, address: str, pages: dict[Path, Page]) -> bool:
    """Whether a link within the book leads nowhere."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return False
    target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    if not target.is_file():
        return True
    anchor = unquote(parts.fragment)
    return bool(anchor) and target in pages and anchor not in pages[target].anchors


def check_page(page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """Sentences about one page."""
    for address in page.assets + [src for src, _ in page.images]:
        if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
            yield f"needs the network: {address}"
        elif address and not address.startswith("data:") and broken(page, address, pages):
            yield f"missing file: {address}"
    yield from (f"broken link: {link}" for link in page.links if broken(page, link, pages))
    yield from (f"image without alternative text: {src}" for src, alt in page.images if not alt)
    if "stderr" in page.classes:
        yield "shows a warning (output on stderr)"
    if "system-message" in page.classes or "problematic" in page.classes:
        yield "shows a message of the book's builder"


def check_notebook(path: Path, page: Page) -> Iterator[str]:
    """Sentences about one executed notebook and its page."""
    cells = code_cells(nbformat.read(path, as_version=4))
    ran = [cell.execution_count for cell in cells if cell.source.strip()]
    if ran != list(range(1, len(ran) + 1)):
        yield f"cells did not all run in order: {ran}"
    alts = {alt for _, alt in page.images}
    for cell in cells:
        name = f"cell {cell.execution_count}"
        kinds = [out.output_type for out in cell.outputs]
        mystnb = cell.metadata.get("mystnb", {})
        draws = any("image/png" in out.get("data", {}) for out in cell.outputs)
        declared = "figure" in mystnb or "image" in mystnb
        if "error" in kinds and not tagged(cell, "raises-exception"):
            yield f"{name} failed"
        if any(out.get("name") == "stderr" for out in cell.outputs):
            yield f"{name} printed to stderr"
        if draws != declared:
            yield f"{name} " + ("draws without figure metadata" if draws else "drew no figure")
        elif draws and mystnb.get("image", {}).get("alt") not in alts:
            yield f"the figure of {name} is not on the page with its alternative text"
        elif draws and mystnb.get("figure", {}).get("name") not in page.anchors:
            yield f"the figure of {name} is not on the page with its name"


def check_comparisons(path: Path) -> Iterator[str]:
    """Sentences about the comparisons that a notebook made while it was executed."""
    record = compares_file(path)
    lines = record.read_text("utf-8").splitlines() if record.is_file() else []
    made = [json.loads(line) for line in lines]
    kinds = {entry["against"] for entry in made}
    if "module" not in kinds:
        yield "compares nothing with its module"
    if not kinds & INDEPENDENT:
        yield f"compares nothing with a {' or a '.join(sorted(INDEPENDENT))}"
    patterns, seen = comparisons(nbformat.read(path, as_version=4)), set()
    for entry in made:  # the longest pattern has the fewest gaps to be filled
        fit = (p for p in patterns.values() if re.fullmatch(p, entry["name"]))
        seen.add(max(fit, key=len, default=None))
    yield from (f"comparison {n} was not made" for n, p in patterns.items() if p not in seen)


def check(html: Path, book: Path, notebooks: Path) -> list[str]:
    """Everything that is wrong, one sentence each."""
    names = list(toc_names(yaml.safe_load((book / "_toc.yml").read_text("utf-8"))))
    files = {name: (html / f"{name}.html").resolve() for name in names}
    wrong = [f"{name}: page missing" for name, file in files.items() if not file.is_file()]
    pages = {file: Page(file) for file in files.values() if file.is_file()}
    for name, file in files.items():
        if file in pages:
            wrong += [f"{name}: {what}" for what in check_page(pages[file], pages)]
            executed = notebooks / f"{name}.ipynb"
            if executed.is_file():
                wrong += [f"{name}: {what}" for what in check_notebook(executed, pages[file])]
                wrong += [f"{name}: {what}" for what in check_comparisons(executed)]
            elif (book / f"{name}.ipynb").is_file():
                wrong.append(f"{name}: not executed")
    return wrong


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: python tools/check_book.py HTML BOOK NOTEBOOKS")
    if problems := check(*map(Path, sys.argv[1:])):
        raise SystemExit("\n".join(problems))
