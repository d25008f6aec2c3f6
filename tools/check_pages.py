"""Check built pages as a browser shows them to a reader; ``check_pages.js`` does the looking.

``tests/book/test_book_browser.py`` runs this on every page of the book.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import access
import browser
from PIL import Image
from selenium import webdriver

LOOK = Path(__file__).with_suffix(".js").read_text("utf-8")
LEAST_CONTRAST = 4.5  # WCAG 2, level AA
NETWORK = ("http", "https", "ws", "wss")
SHOWN = """
const done = arguments[arguments.length - 1];
requestAnimationFrame(() => requestAnimationFrame(() => done(
  [...document.images].filter((image) => image.checkVisibility()).map((image) => image.currentSrc)
    .filter((address) => address.startsWith("file:")),
)));
"""


def check_page(driver: webdriver.Chrome, page: Path) -> list[str]:
    """Everything that is wrong with one page, one sentence each; the page is left light."""
    browser.resize(driver, browser.DESKTOP)
    browser.visit(driver, page.as_uri())
    wrong = [f"console: {message}" for message in browser.errors(driver)]
    wrong += [f"asks the network for {url}" for url in browser.requested(driver) if remote(url)]
    look(driver, "unfold()")
    wrong += look(driver, "[...formulas(), ...scrolling()]")
    for figure in look(driver, "figures()"):
        wrong += check_figure(Path(unquote(urlsplit(figure).path)))
    for theme in ("dark", "light"):
        if not browser.switch_theme(driver, theme):
            wrong.append(f"its button does not make it {theme}")
        wrong += look(driver, f"[...images(), ...paleness({LEAST_CONTRAST})]")
    wrong += [*access.serious(driver), *moving(driver)]
    browser.resize(driver, browser.PHONE)
    wrong += access.serious(driver)
    return list(dict.fromkeys(wrong + look(driver, "overflow()")))


def look(driver: webdriver.Chrome, call: str) -> list[str]:
    """What a call of a function of ``check_pages.js`` returns."""
    return driver.execute_script(f"{LOOK}\nreturn {call};")


def moving(driver: webdriver.Chrome) -> list[str]:
    """Images that move although the reader asked that nothing does."""
    browser.ask_for(driver, "prefers-reduced-motion", "reduce")
    shown = set(driver.execute_async_script(SHOWN))
    browser.ask_for(driver, "prefers-reduced-motion", "no-preference")
    files = [Path(unquote(urlsplit(address).path)) for address in sorted(shown)]
    return [
        f"moves for those who asked for stillness: {file.name}" for file in files if moves(file)
    ]


def moves(file: Path) -> bool:
    """Whether a file is a picture of several frames."""
    if not file.is_file() or file.suffix == ".svg":
        return False
    with Image.open(file) as picture:
        return getattr(picture, "is_animated", False)


def remote(address: str) -> bool:
    """Whether an address is not on this machine's disk."""
    return urlsplit(address).scheme in NETWORK


def check_figure(file: Path) -> Iterator[str]:
    """Sentences about a figure: a dark page must not shine through."""
    with Image.open(file) as picture:
        pixels = picture.convert("RGBA")
    if pixels.getchannel("A").getextrema() != (255, 255):
        yield f"figure not opaque: {file.name}"
    elif pixels.getpixel((0, 0)) != (255, 255, 255, 255):
        yield f"figure not on white: {file.name}"
