"""Take pictures of every page of a built book: ``python tools/screenshots.py HTML FOLDER``.

For people who look at the whole book at once: each page in full height, on a desktop and on a
phone, light and dark, as ``FOLDER/<page>-<desktop|phone>-<light|dark>.png``.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import browser
from selenium import webdriver

WIDTHS = {"desktop": browser.DESKTOP, "phone": browser.PHONE}
HEIGHT = "return document.documentElement.scrollHeight"


def pages(html: Path) -> list[str]:
    """The names of the pages that have a source, without the indexes and listings of code."""
    sources = html / "_sources"
    return sorted(
        path.relative_to(sources).with_suffix("").as_posix()
        for path in sources.rglob("*.*")
        if html.joinpath(path.relative_to(sources)).with_suffix(".html").is_file()
    )


def take(driver: webdriver.Chrome, page: Path, picture: Path, width: int, theme: str) -> None:
    """Write one picture of one page."""
    browser.resize(driver, width)
    browser.visit(driver, page.as_uri())
    browser.switch_theme(driver, theme)
    browser.resize(driver, width, driver.execute_script(HEIGHT))
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(driver.get_screenshot_as_png())


def take_all(driver: webdriver.Chrome, html: Path, folder: Path) -> None:
    """Four pictures of each page."""
    for name, size, theme in product(pages(html), WIDTHS, ("light", "dark")):
        page, picture = html / f"{name}.html", folder / f"{name}-{size}-{theme}.png"
        take(driver, page.resolve(), picture, WIDTHS[size], theme)


def main(html: Path, folder: Path) -> None:
    """Start a browser and take them, or say what is missing."""
    if (reason := browser.missing()) is not None:
        raise SystemExit(reason)
    if not (html / "index.html").is_file():
        raise SystemExit(f"{html} holds no built book: make book")
    with browser.browser() as driver:
        take_all(driver, html, folder)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python tools/screenshots.py HTML FOLDER")
    main(*map(Path, sys.argv[1:]))
    print(Path(sys.argv[2]).resolve())
