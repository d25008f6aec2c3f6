"""Whether everyone can use a page: the rules of axe-core, run in the browser.

``tools/check_pages.py`` does this on every page of the book. ``python tools/access.py HTML`` says
what all rules find, the less serious ones too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import browser
from selenium import webdriver

AXE = (Path(__file__).parent / "axe/axe.min.js").read_text("utf-8")
SERIOUS = ("serious", "critical")
RUN = """
const done = arguments[arguments.length - 1];
const told = (violation) => ({
  rule: violation.id,
  impact: violation.impact,
  help: violation.help,
  where: violation.nodes.map(({ target }) => target.flat().join(" ")),
});
const judge = () => axe.run(document, { resultTypes: ["violations"] })
  .then(({ violations }) => done(violations.map(told)), (error) => done(String(error)));
requestAnimationFrame(() => requestAnimationFrame(judge)); // the page has heard of its new width
"""


def violations(driver: webdriver.Chrome) -> list[dict[str, Any]]:
    """What the rules find on the page that is open, as it is shown now."""
    if not driver.execute_script("return Boolean(window.axe)"):
        driver.execute_script(AXE)
    found = driver.execute_async_script(RUN)
    if isinstance(found, str):
        raise RuntimeError(f"axe-core stopped: {found}")
    return found


def serious(driver: webdriver.Chrome) -> list[str]:
    """A sentence for each rule that keeps somebody from using the page."""
    return [sentence(of) for of in violations(driver) if of["impact"] in SERIOUS]


def sentence(of: dict[str, Any]) -> str:
    """A violation, with the first of its places."""
    more = f" and {len(of['where']) - 1} more" if of["where"][1:] else ""
    return f"access, {of['rule']}: {of['help']}: {of['where'][0]}{more}"


def main(html: Path) -> None:
    """Print what is found on every page, on a desktop and a phone, light and dark."""
    with browser.browser() as driver:
        for page in sorted(html.rglob("*.html")):
            said: dict[str, None] = {}
            for width in (browser.DESKTOP, browser.PHONE):
                browser.resize(driver, width)
                browser.visit(driver, page.as_uri())
                for theme in ("dark", "light"):
                    browser.switch_theme(driver, theme)
                    said |= {f"{of['impact']}: {sentence(of)}": None for of in violations(driver)}
            print(
                f"{page.relative_to(html)}: {len(said) or 'nothing'}", *said, sep="\n  ", flush=True
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
