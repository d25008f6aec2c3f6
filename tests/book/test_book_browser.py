"""The built book as its readers meet it, opened from disk in a browser without a window.

Needs chromium and chromedriver, and for the pages ``make book`` (or METALEARN_TUT_HTML, the folder
of other built pages). The checks of one page stand in ``tools/check_pages.py``.
"""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import background
import browser
import check_book
import check_pages
import nbformat
import pytest
import screenshots
import set_repository
import yaml
from contract_code import code_cells
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
NAMES = list(check_book.toc_names(yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))))
CHAPTERS = [name for name in NAMES if (BOOK / f"{name}.ipynb").is_file()]
SOURCES = {".bib", ".css", ".ipynb", ".js", ".md", ".py", ".yml"}
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))


@pytest.fixture(scope="session")
def driver():
    if (reason := browser.missing()) is not None:
        pytest.skip(reason)
    with browser.browser() as started:
        yield started


@pytest.fixture(scope="session")
def html():
    """The folder of built pages, unless there are none that fit the present sources."""
    given = os.environ.get("METALEARN_TUT_HTML")
    folder = Path(given or ROOT / "_build/html").resolve()
    if not (folder / "index.html").is_file():
        pytest.skip("no built book: make book")
    sources = [ROOT / "_config.yml", *(p for p in BOOK.rglob("*") if p.suffix in SOURCES)]
    built = (folder / "index.html").stat().st_mtime
    if not given and max(path.stat().st_mtime for path in sources) > built:
        pytest.skip("the built book is older than its sources: make book")
    return folder


@pytest.fixture(scope="module")
def chapter(request, driver, html):
    """A chapter opened on a desktop, once for all its tests: pytest runs them in a row."""
    browser.resize(driver, browser.DESKTOP)
    browser.visit(driver, (html / f"{request.param}.html").as_uri())
    return request.param


each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, indirect=True)


def all_of(driver, selector):
    return driver.find_elements(By.CSS_SELECTOR, selector)


def one(driver, selector):
    (element,) = all_of(driver, selector)
    return element


def wait(driver, condition):
    return WebDriverWait(driver, background.HANG, 0.02).until(condition)


# Every page


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("name", [*NAMES, "genindex", "py-modindex", "search"])
def test_a_page_can_be_read_offline_on_any_screen_light_and_dark(driver, html, name):
    assert check_pages.check_page(driver, html / f"{name}.html") == []


def test_an_icon_that_is_drawn_late_gets_no_name_beside_its_buttons(driver, html):
    browser.visit(driver, (html / "intro.html").as_uri())
    late = "<svg class='late'><title>Light</title></svg>"
    button = one(driver, ".theme-switch-button")
    driver.execute_script(
        "arguments[0].insertAdjacentHTML('beforeend', arguments[1])", button, late
    )
    wait(driver, lambda _: one(driver, ".late").get_attribute("aria-hidden") == "true")
    assert all_of(driver, ".late title") == []


# The buttons of a chapter


@each_chapter
def test_the_buttons_lead_to_this_chapter(driver, chapter):
    address = set_repository.current(ROOT)
    branch, file = CONFIG["repository"]["branch"], f"book/{chapter}.ipynb"
    assert (ROOT / file).is_file()
    colab = address.replace("https://github.com", "https://colab.research.google.com/github")
    lead_to = {
        ".dropdown-launch-buttons a": f"{colab}/blob/{branch}/{file}",
        ".btn-source-repository-button": address,
        ".btn-source-edit-button": f"{address}/edit/{branch}/{file}",
    }
    for selector, target in lead_to.items():
        assert one(driver, selector).get_attribute("href") == target
    issue = one(driver, ".btn-source-issues-button").get_attribute("href")
    assert issue.startswith(f"{address}/issues/new?title=") and chapter in issue


@each_chapter
def test_the_download_is_the_chapter_with_the_results_that_the_page_shows(driver, html, chapter):
    link = one(driver, ".btn-download-source-button").get_attribute("href")
    assert link == (html / f"_sources/{chapter}.ipynb").as_uri()
    notebook = nbformat.read(html / f"_sources/{chapter}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert len(cells) == len(all_of(driver, "div.cell")) > 0
    assert cells[0].source.startswith("# Setup")  # says what to install where the package is not
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


# A script may not write to the clipboard, only a reader's click: see what would be written.
COPIED = """
const texts = [];
document.execCommand = () => texts.push(document.activeElement.value);
for (const button of document.querySelectorAll("div.cell_input .copybtn")) button.click();
delete document.execCommand;
return texts;
"""
WATCH = "document.addEventListener('copy', (event) => (window.copied = event.target.value));"


@each_chapter
def test_the_copy_button_of_each_cell_copies_its_code(driver, html, chapter):
    notebook = nbformat.read(html / f"_sources/{chapter}.ipynb", as_version=4)
    code = [cell.source.strip() for cell in code_cells(notebook)]
    assert [text.strip() for text in driver.execute_script(COPIED)] == code
    driver.execute_script(WATCH)
    buttons = all_of(driver, "div.cell_input .copybtn")
    first = next(i for i, each in enumerate(buttons) if each.is_displayed())  # not folded
    button = buttons[first]
    ActionChains(driver, duration=0).move_to_element(button).click().perform()
    assert driver.execute_script("return window.copied").strip() == code[first]


def test_an_example_is_copied_without_prompts_and_results(driver, html):
    browser.visit(driver, (html / "api/tasks.html").as_uri())
    copied = driver.execute_script(COPIED.replace("div.cell_input", "div.doctest"))
    assert copied and not any(">>>" in text for text in copied)
    for text in copied:
        compile(text, "example", "exec")


# Finding the way


def test_search_finds_the_chapters_from_disk(driver, html):
    browser.resize(driver, browser.DESKTOP)
    for word in ("meta-gradient", "episode", "temperature"):
        wanted = {name for name in CHAPTERS if word in text_of(html, name)}
        browser.visit(driver, (html / "intro.html").as_uri())
        one(driver, ".bd-sidebar .search-button-field").click()
        one(driver, "#pst-search-dialog input").send_keys(word, Keys.ENTER)
        wait(driver, lambda _: "search.html" in driver.current_url)
        if not wanted:
            continue
        (summary,) = wait(driver, lambda _: all_of(driver, "#search-results .search-summary"))
        wait(driver, lambda _, summary=summary: "finished" in summary.text)
        links = {a.get_attribute("href") for a in all_of(driver, "#search-results li a")}
        found = {Path(urlsplit(link).path).stem for link in links}
        assert wanted <= found, f"{word}: {found}"


def text_of(html, chapter):
    """The text of a chapter without its code, in small letters."""
    cells = nbformat.read(html / f"_sources/{chapter}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown").lower()


def test_a_citation_leads_to_its_entry_in_the_bibliography(driver, html):
    followed = 0
    for name in CHAPTERS:
        browser.visit(driver, (html / f"{name}.html").as_uri())
        for link in all_of(driver, "article a[href*='references.html#']"):
            if cited := re.fullmatch(r"(\w+)\b.*, (\d{4})", link.text):
                link.click()
                (entry,) = wait(driver, lambda _: all_of(driver, "div.citation:target"))
                assert all(part in entry.text for part in cited.groups())
                assert in_view(driver, entry)
                followed += 1
                break
    assert followed > 0
    assert not re.search(r"\[[A-Z]\w*\+?\d\d\]", one(driver, "article").text)  # [FAL17]


def in_view(driver, element):
    return driver.execute_script(
        "const { top, bottom } = arguments[0].getBoundingClientRect();"
        "return top >= 0 && bottom <= innerHeight && bottom > top;",
        element,
    )


def test_a_reference_to_a_figure_carries_the_number_of_its_caption(driver, html):
    count = 0
    for name in CHAPTERS:
        browser.visit(driver, (html / f"{name}.html").as_uri())
        for reference in all_of(driver, "article a.reference[href^='#fig-']"):
            number = one(driver, f"{reference.get_attribute('hash')} .caption-number").text
            assert re.fullmatch(r"Fig\. (\d+\.)?\d+", number) and reference.text == number
            count += 1
    assert count > 0


# What opens, and what a keyboard reaches


@each_chapter
@pytest.mark.parametrize("by_keyboard", [False, True])
def test_a_solution_opens_and_closes(driver, chapter, by_keyboard):
    solution = all_of(driver, ".solution.dropdown")[0]
    button = solution.find_element(By.CSS_SELECTOR, "button.toggle-button")
    content = solution.find_element(By.CSS_SELECTOR, "div.cell_input")
    assert not content.is_displayed()
    for shown in (True, False):
        if by_keyboard:
            button.send_keys(Keys.ENTER)
        else:
            driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", solution)
            solution.find_element(By.CSS_SELECTOR, ".admonition-title").click()
        wait(driver, lambda _, shown=shown: content.is_displayed() == shown)


@each_chapter
def test_folded_code_opens_by_keyboard(driver, chapter):
    folded = all_of(driver, "details.hide")[0]
    code = folded.find_element(By.CSS_SELECTOR, "pre")
    assert not code.is_displayed()
    folded.find_element(By.CSS_SELECTOR, "summary").send_keys(Keys.ENTER)
    wait(driver, lambda _: code.is_displayed())


def test_the_keyboard_comes_first_to_a_visible_link_to_the_text(driver, html):
    browser.visit(driver, (html / "intro.html").as_uri())
    ActionChains(driver).send_keys(Keys.TAB).perform()
    link = driver.switch_to.active_element
    wait(driver, lambda _: link.text == "Skip to main content" and in_view(driver, link))
    link.send_keys(Keys.ENTER)
    assert urlsplit(driver.current_url).fragment == one(driver, "main").get_attribute("id")


def test_the_first_picture_moves_unless_the_reader_asked_for_stillness(driver, html):
    browser.visit(driver, (html / "intro.html").as_uri())
    shown = "return document.querySelector('article picture img').currentSrc"
    assert driver.execute_script(shown).endswith("/hero.webp")
    browser.ask_for(driver, "prefers-reduced-motion", "reduce")
    try:
        wait(driver, lambda _: driver.execute_script(shown).endswith("/hero.png"))
    finally:
        browser.ask_for(driver, "prefers-reduced-motion", "no-preference")


def test_the_wheel_that_the_page_offers_is_there_with_its_checksum(driver, html):
    browser.visit(driver, (html / "install.html").as_uri())
    (link,) = all_of(driver, "article a[href$='.whl']")
    file = Path(urlsplit(link.get_attribute("href")).path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in one(driver, "article").text


def test_a_folded_cell_and_the_themes_buttons_are_called_what_they_read(driver, html):
    """Screen readers heard the same words for every folded cell."""
    browser.visit(driver, (html / f"{CHAPTERS[0]}.html").as_uri())
    names = [s.accessible_name for s in all_of(driver, "details.hide > summary")]
    assert names and names == [s.text for s in all_of(driver, "details.hide > summary")]
    assert one(driver, ".theme-switch-button").accessible_name == "Color mode"


def test_the_theme_stays_from_page_to_page(driver, html):
    browser.resize(driver, browser.DESKTOP)
    browser.visit(driver, (html / "intro.html").as_uri())
    theme = "return document.documentElement.dataset.theme"
    assert driver.execute_script(theme) == "light"
    while driver.execute_script(theme) != "dark":
        one(driver, ".theme-switch-button").click()
    browser.visit(driver, (html / "notation.html").as_uri())
    assert driver.execute_script(theme) == "dark"
    assert browser.switch_theme(driver, "light")


# The checks of a page, on pages made by hand

MADE = """<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>A page</title>
<style>
  body { color: #222; background: #fff; }
  [data-theme="dark"] body { color: #ddd; background: #111; }
  pre { overflow: auto; }
</style>
<script>
  const { dataset } = document.documentElement;
  const turn = () => (dataset.theme = dataset.theme === "light" ? "dark" : "light");
</script>
<script src="MATHJAX"></script>
</head>
<body>
  <h1>A page</h1>
  <button class="theme-switch-button" onclick="turn()">Theme</button>
  <p>Text with <span class="math">\\(x^2\\)</span> in it.</p>
  <details><summary>More</summary><span>Folded.</span></details>
  <div class="cell_input">
    <pre tabindex="0">a_line_that_is_wider_than_a_phone = "but scrolls, as code may do"</pre>
  </div>
  <figure><img src="plot.png" alt="A dot"><figcaption>A plot.</figcaption></figure>
</body>
</html>"""


@pytest.fixture
def made(driver, tmp_path):
    """What is said about a page with a fault: ``made(old, new)`` plants it."""

    def check(old="", new="", background="white"):
        Image.new("RGBA", (40, 30), background).save(tmp_path / "plot.png")
        frames = [Image.new("RGB", (40, 30), color) for color in ("white", "red")]
        frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:])
        assert old in MADE
        text = MADE.replace(old, new) if old else MADE
        mathjax = (BOOK / "_extra/mathjax/tex-mml-chtml.js").as_uri()
        (tmp_path / "page.html").write_text(text.replace("MATHJAX", mathjax), "utf-8")
        return check_pages.check_page(driver, tmp_path / "page.html")

    return check


def test_a_faultless_page_passes(made):
    assert made() == []


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("x^2", r"\frac{x}", "formula with an error: "),
        ("x^2", r"\nothing", r'formula with an unknown command: "\nothing"'),
        ("MATHJAX", "gone.js", r'formula not typeset: "\(x^2\)"'),
        ("Text with", "Text $y$ with", 'formula as raw text: "Text $y$ with'),
        ("Text with", r"Text \theta with", r'formula as raw text: "Text \theta with'),
        ("plot.png", "gone.png", "image not shown: gone.png"),
        ("<p>Text", "<script>gone();</script><p>Text", "console: "),
        ("plot.png", "http://127.0.0.1:9/a.png", "asks the network for http://127.0.0.1:9/a.png"),
        (
            "<p>",
            '<p style="width: 500px; text-align: right">',
            'too wide for a page of 400 px: p "Text with',
        ),
        ("<pre ", '<pre style="overflow: hidden" ', "too wide for a page of 400 px: pre"),
        ("<p>", '<div style="width: 500px">.</div><p>', "a page of 400 px scrolls sideways"),
        ("<pre ", '<pre style="width: 300px" ', 'scrolls on a desktop: "a_line_that'),
        (
            "Text with",
            '<div class="math" style="width: 9px; overflow: auto">\\(x+y\\)</div>',
            "scrolls on a desktop: ",
        ),
        ("<p>", '<p style="color: #999">', 'contrast 2.8 below 4.5: p "Text with in it." (light)'),
        ("<p>", '<p style="color: #444">', 'contrast 1.9 below 4.5: p "Text with in it." (dark)'),
        ("<p>", '<p style="opacity: 0.3">', "contrast 1.9 below 4.5: p"),
        ("<p>", '<p style="background: #222a">', "contrast 3.0 below 4.5: p"),
        (
            'class="math"',
            'class="math" style="color: #999"',
            "contrast 2.8 below 4.5: mjx-container",
        ),
        ("<span>", '<span style="color: #999">', 'contrast 2.8 below 4.5: span "Folded."'),
        ("<p>", '<p style="font-weight: 200">', "letters too thin: p"),
        ("<img", '<img style="filter: invert(1)"', "image recolored: plot.png"),
        (' onclick="turn()"', "", "its button does not make it dark"),
        ("plot.png", "moves.webp", "moves for those who asked for stillness: moves.webp"),
        (' alt="A dot"', "", "access, image-alt: Images must have alternative text: img"),
        ("<title>A page</title>", "", "access, document-title: "),
        (">Theme<", "><", "access, button-name: "),
        ("<summary>More", "<summary>", "access, summary-name: "),
    ],
)
def test_a_fault_of_a_page_is_named(made, old, new, sentence):
    assert [found for found in made(old, new) if found.startswith(sentence)]


@pytest.mark.parametrize(
    ("background", "sentence"),
    [("#fff0", "figure not opaque: plot.png"), ("#eee", "figure not on white: plot.png")],
)
def test_a_figure_through_which_a_dark_page_shines_is_named(made, background, sentence):
    assert made(background=background) == [sentence]


def test_each_page_is_pictured_in_full_height(driver, tmp_path):
    (tmp_path / "_sources").mkdir()
    (tmp_path / "_sources/page.md").touch()
    (tmp_path / "page.html").write_text(MADE.replace("<pre ", "<pre style='height: 2000px' "))
    screenshots.take_all(driver, tmp_path, tmp_path / "pictures")
    corners = {}
    for picture in (tmp_path / "pictures").iterdir():
        with Image.open(picture) as image:
            assert image.height > 2000
            corners[picture.name] = image.width, image.convert("RGB").getpixel((1, 1))[0]
    assert corners == {
        "page-desktop-light.png": (1280, 255),
        "page-desktop-dark.png": (1280, 17),
        "page-phone-light.png": (400, 255),
        "page-phone-dark.png": (400, 17),
    }
