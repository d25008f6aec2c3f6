"""Chromium without a window, to look at built pages as their readers see them.

It reads from disk and never looks for a driver, an update or anything else on the network.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",  # a width of 400 px is then 400 px of page
)
DESKTOP, PHONE = 1280, 400  # widths in px

# Nothing moves or fades while it is looked at, and what is still to come has come.
SETTLE = """
const done = arguments[arguments.length - 1];
const still = document.createElement("style");
still.textContent = "* { animation: none !important; transition: none !important; }";
document.head.append(still);
const images = [...document.images].filter((image) => !image.complete);
const seen = images.map((image) => new Promise((resolve) => {
  image.loading = "eager";
  image.onload = image.onerror = resolve;
}));
Promise.all([...seen, window.MathJax?.startup?.promise, document.fonts.ready]).then(() => done());
"""


def missing() -> str | None:
    """Why there can be no browser on this machine, or None."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} on this machine" if absent else None


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile that notes its console and what it requests."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(executable_path=shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_page_load_timeout(1800)
            driver.set_script_timeout(1800)
            yield driver
        finally:
            driver.quit()


def visit(driver: webdriver.Chrome, address: str) -> None:
    """Open a page with empty logs, and wait until its formulas and images are there."""
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(address)
    driver.execute_async_script(SETTLE)


def resize(driver: webdriver.Chrome, width: int, height: int = 900) -> None:
    """Give the page this many px; a window of its own could not be as narrow as a phone."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def ask_for(driver: webdriver.Chrome, feature: str, value: str) -> None:
    """Tell pages what their reader asked this machine for, such as less motion."""
    features = {"features": [{"name": feature, "value": value}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)


def switch_theme(driver: webdriver.Chrome, theme: str) -> bool:
    """Press the theme button until the page is ``light`` or ``dark``; whether it became so."""
    for _ in range(4):
        if driver.execute_script("return document.documentElement.dataset.theme") == theme:
            return True
        driver.execute_script("document.querySelector('.theme-switch-button')?.click()")
    return False


def errors(driver: webdriver.Chrome) -> list[str]:
    """What the console reported as severe since the page was opened."""
    return [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]


def requested(driver: webdriver.Chrome) -> list[str]:
    """The addresses that the page asked for since it was opened."""
    events = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
