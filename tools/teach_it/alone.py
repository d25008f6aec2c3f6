"""The demo of "Teach it five things" on a page of its own, which needs no built book.

    python tools/teach_it/alone.py

writes ``book/_extra/teach/index.html``, which ``metalearn-tut demo`` opens.
"""

from __future__ import annotations

import re
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

BOOK = Path(__file__).parents[2] / "book"
PAGE = BOOK / "_extra/teach/index.html"
HANG = 1800  # seconds: what takes longer hangs, however busy the machine is
AROUND = """<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Teach it five things</title>
BASE
<style>
  html {
    --pst-color-text-base: #222832; --pst-color-text-muted: #48566b; --pst-color-border: #c9c9c9;
    --pst-color-surface: #f3f4f5; --pst-color-background: #fff; --pst-color-link: #0f5fcb;
  }
  html[data-theme="dark"] {
    --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af; --pst-color-border: #48566b;
    --pst-color-surface: #29313d; --pst-color-background: #121212; --pst-color-link: #5f9bf5;
  }
  *, ::before { box-sizing: border-box; }
  body {
    max-width: 700px; margin: 16px auto; padding: 0 16px; font: 16px/1.6 sans-serif;
    color: var(--pst-color-text-base); background: var(--pst-color-background);
  }
</style>
<script>
  const { dataset } = document.documentElement;
  const turn = () => (dataset.theme = dataset.theme === "light" ? "dark" : "light");
</script>
</head>
<body>
<main>
<h1>Teach it five things</h1>
<p>Draw five things, one picture of each. Then draw one of them again: does a network recognize it
that has never seen any of them before?</p>
<button class="theme-switch-button" onclick="turn()">Light or dark</button>
DEMO
</main>
</body>
</html>"""


def demo() -> str:
    """The HTML in the source of the book's page."""
    text = (BOOK / "teach_it.md").read_text("utf-8")
    (found,) = re.findall(r"^```\{raw\} html\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return found


def text(base: str = "") -> str:
    """The page; ``base`` says where the folders ``teach`` and ``onnxruntime`` are."""
    head = f'<base href="{base}">' if base else ""
    return AROUND.replace("BASE\n", f"{head}\n" if head else "").replace("DEMO", demo().rstrip())


def write(folder: Path) -> Path:
    """The page, in an empty folder, beside what the book puts beside its pages."""
    for name in ("teach", "onnxruntime"):
        (folder / name).symlink_to(BOOK / "_extra" / name)
    page = folder / "teach_it.html"
    page.write_text(text(), "utf-8")
    return page


def wait(driver: webdriver.Chrome, condition: str) -> None:
    """Until the page fulfills a condition, in JavaScript."""
    waiting = WebDriverWait(driver, HANG, 0.02)
    waiting.until(lambda _: driver.execute_script(f"return {condition}"))


def ready(driver: webdriver.Chrome) -> None:
    """Until the first pictures are in the squares."""
    wait(driver, "!Teach.app.squares[5].empty")


def choose(driver: webdriver.Chrome, learner: str) -> None:
    """Choose a learner by its name in the package."""
    driver.execute_script(
        "const box = document.querySelector('#teach select');"
        "box.value = Teach.learners.findIndex(({ name }) => name === arguments[0]);"
        "box.dispatchEvent(new Event('change'));",
        learner,
    )
    wait(driver, f"Teach.app.state.learner.name === '{learner}'")


def press(driver: webdriver.Chrome, what: str) -> None:
    """Press one of the large buttons."""
    driver.execute_script(f"document.querySelector('#teach [data-do={what}]').click()")


def answered(driver: webdriver.Chrome, condition: str = "true") -> None:
    """Until there is an answer to what is now in the squares."""
    wait(driver, f"Teach.last && !Teach.app.busy() && {condition}")


def start(driver: webdriver.Chrome, learner: str) -> None:
    """Choose a learner, and wait for its first answer."""
    choose(driver, learner)
    press(driver, "start")
    answered(driver, f"Teach.last.learner === '{learner}'")


if __name__ == "__main__":
    PAGE.write_text(text("../") + "\n", "utf-8")
    print(PAGE)
