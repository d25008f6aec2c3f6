"""Check built pages as a browser shows them to a reader; ``check_pages.js`` does the looking.

``tests/book/test_book_browser.py`` runs this on every page of the book.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
from PIL import Image
from selenium import webdriver

LOOK = Path(__file__).with_suffix(".js").read_text("utf-8")
LEAST_CONTRAST = 4.5  # WCAG 2, level AA
NETWORK = ("http", "https", "ws", "wss")


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
    browser.resize(driver, browser.PHONE)
    return list(dict.fromkeys(wrong + look(driver, "overflow()")))


def look(driver: webdriver.Chrome, call: str) -> list[str]:
    """What a call of a function of ``check_pages.js`` returns."""
    return driver.execute_script(f"{LOOK}\nreturn {call};")


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
