"""The page "Teach it five things", with a reader's mouse and keys, opened from disk.

Needs chromium and chromedriver, but no built book: the demo of the page's source is enough.
"""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import access
import background
import browser
import check_pages
import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from teach_it import alone, learners, pictures, runtime
from teach_it.alone import answered, choose, press, start, wait

from metalearn_tut import pretrained, tasks

TEXT = (Path(__file__).parents[2] / "book/teach_it.md").read_text("utf-8")
NAMES = [of["name"] for of in learners.shown()]
GRAY = next(of["name"] for of in learners.shown() if of["channels"] == 1)
PHONE = 360


def test_the_page_that_the_command_opens_is_the_demo_of_the_book():
    assert alone.PAGE.read_text("utf-8") == alone.text("../") + "\n"


@pytest.fixture(scope="module")
def driver():
    if (reason := browser.missing()) is not None:
        pytest.skip(reason)
    with browser.browser() as started:
        yield started


@pytest.mark.parametrize("width", [browser.DESKTOP, PHONE])
def test_everyone_can_use_it(driver, page, width):
    """At first, and with an answer."""
    open_page(driver, page, width)
    assert access.serious(driver) == []
    start(driver, GRAY)
    assert access.serious(driver) == []


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with the demo, beside what the book puts beside its pages."""
    return alone.write(tmp_path_factory.mktemp("book"))


def one(driver, selector):
    (element,) = driver.find_elements(By.CSS_SELECTOR, selector)
    return element


def open_page(driver, page, width=browser.DESKTOP):
    browser.resize(driver, width)
    browser.visit(driver, page.as_uri())
    alone.ready(driver)


def at_work(driver, page, name=GRAY):
    """The page with a random task of glyphs, answered; opened only if it is not there yet."""
    browser.resize(driver, browser.DESKTOP)
    if driver.current_url != page.as_uri() or not driver.execute_script(READY):
        open_page(driver, page)
        press(driver, "start")
    choose(driver, name)
    deal(driver, "glyphs")
    answered(driver, f"Teach.last.learner === '{name}'")


READY = "return Boolean(window.Teach?.app?.state.loaded)"


def deal(driver, kind):
    """Another random task, answered."""
    driver.execute_script("Teach.last = null")
    press(driver, kind)
    answered(driver, "Teach.last.truth !== null")


# Shapes that a hand draws, in a square of side 1
SHAPES = [
    [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]],  # a cross
    [[(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)]],  # a square
    [[(0.5, 0.15), (0.5, 0.85)]],  # a line
    [[(0.15, 0.25), (0.85, 0.25), (0.3, 0.75), (0.85, 0.75)]],  # a Z
    [[(0.2, 0.2), (0.2, 0.8), (0.8, 0.8)]],  # an L
]


def draw(driver, square, strokes, kind="mouse", by=1.0):
    """Strokes by pointer events, ``by`` of their size."""
    canvas = driver.find_elements(By.CSS_SELECTOR, ".teach-square canvas")[square]
    driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    box = canvas.rect["width"]
    for stroke in strokes:
        chain = ActionChains(driver, duration=20)
        pointer = chain.w3c_actions.add_pointer_input(kind, f"{kind} {square}")
        chain.w3c_actions.pointer_action.source = pointer
        moves = chain.w3c_actions.pointer_action
        for i, (x, y) in enumerate(stroke):
            x, y = (round((value - 0.5) * by * box) for value in (x, y))
            moves.move_to(canvas, x, y)
            if i == 0:
                moves.pointer_down()
        moves.pointer_up()
        chain.perform()


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_what_is_drawn_again_is_recognized(driver, page, kind):
    at_work(driver, page)
    press(driver, "wipe")
    for square, strokes in enumerate(SHAPES):
        draw(driver, square, strokes, kind)
    for wanted, strokes in enumerate(SHAPES):
        driver.execute_script("Teach.app.squares[5].clear()")
        draw(driver, 5, strokes, kind, by=0.7)
        answered(driver)
        found, _, _ = seen(driver)
        assert (found["best"], found["truth"]) == (wanted, None)
        bars = driver.find_elements(By.CSS_SELECTOR, "[data-answer]")
        assert [i for i, bar in enumerate(bars) if "teach-best" in bar.get_attribute("class")] == [
            wanted
        ]


# The answer is the learner's


# Typed arrays come to Python as dictionaries.
SEEN = """
const { five, one, ...rest } = Teach.last;
return { ...rest, five: five.map((image) => [...image]), one: [...one] };
"""


def seen(driver):
    """The last answer, and the pixels that it was given to: support set and query."""
    found = driver.execute_script(SEEN)
    (of,) = (of for of in learners.shown() if of["name"] == found["learner"])
    shape = (-1, of["channels"], of["size"], of["size"])
    support, query = (torch.tensor(found[part]).reshape(shape) for part in ("five", "one"))
    return found, support, query


def apart(logits, others):
    return np.abs(np.asarray(logits).ravel() - np.asarray(others).ravel()).max()


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("kind", ["glyphs", "emoji"])
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_python_for_the_same_pixels(driver, page, name, kind):
    at_work(driver, page, name)
    deal(driver, kind)
    found, support, query = seen(driver)
    wanted = pretrained.load(name).adapt(support, torch.arange(5))(query)
    assert apart(found["logits"], wanted) < 1e-3
    gaps = ((support - query) ** 2).flatten(1).sum(1)
    assert found["nearest"] == int(gaps.argmin())


LOOK = "return Teach.app.squares.map((square) => [...Teach.pixels.seen(square, arguments[0])])"


@pytest.mark.parametrize(("kind", "channels", "size"), [("glyphs", 1, 28), ("emoji", 3, 32)])
def test_the_pixels_of_a_random_task_are_those_of_the_test_set(driver, page, kind, channels, size):
    """Of glyphs, ink is 1 and paper 0; emoji are colors on white."""
    at_work(driver, page)
    deal(driver, kind)
    found = driver.execute_script(LOOK, {"channels": channels, "size": size})
    drawn = torch.from_numpy(getattr(tasks, kind)("test").images) / 255
    for image in torch.tensor(found).reshape(-1, channels, size, size):
        assert (drawn - image).abs().flatten(1).amax(1).min() < 1e-6


def test_twenty_tasks_are_counted(driver, page):
    at_work(driver, page)
    before, *_ = tally(driver)
    press(driver, "twenty")
    wait(driver, f"Teach.app.score.tasks === {before + 20}")
    tasks, right, nearest = tally(driver)
    assert 14 < right <= tasks == before + 20 and nearest <= tasks
    said = map(int, re.findall(r"\d+", one(driver, ".teach-tally").text))
    assert [*said] == [right, tasks, nearest]


def tally(driver):
    return driver.execute_script(
        "const s = Teach.app.score; return [s.tasks, s.learner, s.nearest]"
    )


# What is taken home


@pytest.fixture
def downloads(driver, tmp_path):
    """Where downloads arrive: ``downloads(what)`` presses a button and waits for its file."""
    settings = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", settings)

    def download(what):
        press(driver, what)
        arrived = WebDriverWait(driver, background.HANG, 0.05).until(
            lambda _: [p for p in tmp_path.iterdir() if p.suffix == ".onnx"]
        )
        return arrived[0].rename(tmp_path / f"{what}.downloaded")

    return download


def run(file, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(inputs)
    return session.run(["logits"], {n: v.numpy() for n, v in inputs.items()})[0]


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_downloaded_runs_anywhere(driver, page, downloads, name):
    at_work(driver, page, name)
    found, support, query = seen(driver)
    learner = downloads("learner")
    assert learner.read_bytes() == learners.unpacked(name)["learn"]
    answer = run(learner, support_x=support, support_y=torch.arange(5), query_x=query)
    assert apart(found["logits"], answer) < 1e-3
    both = torch.cat([query, support])
    answers = run(downloads("learned"), query_x=both)  # the five are in it
    wanted = pretrained.load(name).adapt(support, torch.arange(5))(both)
    assert answers.shape == (6, 5) and apart(answers, wanted) < 1e-3


def test_the_lines_for_python_run(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    (name,) = re.findall(r'InferenceSession\("(\w+)\.onnx"\)', code)
    (tmp_path / f"{name}.onnx").write_bytes(learners.unpacked(name)["learn"])
    monkeypatch.chdir(tmp_path)
    exec(code, done := {})
    assert done["logits"].shape == (1, 5)


# Alone, and for everybody


def test_nothing_leaves_the_page_and_the_console_is_silent(driver, page):
    open_page(driver, page)
    asked = browser.requested(driver)
    assert not any("onnxruntime" in address for address in asked)  # only when it is started
    start(driver, GRAY)
    for kind in ("emoji", "glyphs"):
        deal(driver, kind)
    asked += browser.requested(driver)
    assert any(address.endswith("onnxruntime.js") for address in asked)
    assert {urlsplit(address).scheme for address in asked} <= {"file", "data", "blob"}
    assert browser.errors(driver) == []


def test_all_can_be_done_from_the_keyboard(driver, page):
    open_page(driver, page)
    choose(driver, GRAY)
    one(driver, "[data-do=wipe]").send_keys(Keys.ENTER)
    first = driver.switch_to.active_element
    assert first.get_attribute("aria-label") == "square 1: one picture to learn"
    # A line from the middle, each into a direction of its own; the sixth as the third.
    ways = [Keys.ARROW_LEFT, Keys.ARROW_UP, (Keys.ARROW_LEFT, Keys.ARROW_UP)]
    ways += [(Keys.ARROW_LEFT, Keys.ARROW_DOWN), (Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_RIGHT)]
    for square, way in enumerate([*ways, ways[2]]):
        canvas = driver.find_elements(By.CSS_SELECTOR, ".teach-square canvas")[square]
        reach(driver, canvas)
        line = [key * 5 for key in way]
        canvas.send_keys(Keys.SPACE, *line, Keys.SPACE)
    assert driver.execute_script("return Teach.app.squares.every((square) => !square.empty)")
    one(driver, "[data-do=start]").send_keys(Keys.ENTER)
    answered(driver)
    assert one(driver, ".teach-spoken").text.startswith("It says 3, with ")
    canvas.send_keys("z")
    wait(driver, "Teach.app.squares[5].empty")
    assert "sixth" in one(driver, ".teach-verdict").text


def reach(driver, element):
    """Press the tab key until the element has the focus."""
    for _ in range(50):
        if driver.switch_to.active_element == element:
            return
        ActionChains(driver).send_keys(Keys.TAB).perform()
    raise AssertionError("the tab key does not reach it")


UNNAMED = """
const controls = document.querySelectorAll("#teach :is(button, input, select, canvas[tabindex])");
return [...controls].filter((c) => !(c.getAttribute("aria-label") || c.labels?.[0]?.textContent
  || c.textContent).trim()).map((c) => c.outerHTML);
"""


def test_every_control_has_a_name(driver, page):
    at_work(driver, page)
    assert driver.execute_script(UNNAMED) == []


def test_an_empty_square_is_named(driver, page):
    at_work(driver, page)
    driver.execute_script("Teach.app.squares[3].clear()")
    wait(driver, "!Teach.app.busy()")
    assert "square 4 is empty" in one(driver, ".teach-verdict").text
    one(driver, "[data-square='4'] [data-do=undo]").click()
    answered(driver)
    assert one(driver, ".teach-verdict").text.startswith("It says ")


def test_another_learner_may_be_chosen_while_the_first_is_loaded(driver, page):
    open_page(driver, page)
    press(driver, "start")
    choose(driver, NAMES[-1])
    answered(driver, f"Teach.last.learner === '{NAMES[-1]}'")


def test_what_cannot_be_read_is_named_and_can_be_tried_again(driver, page):
    open_page(driver, page)
    driver.execute_script("document.getElementById('teach').dataset.runtime = 'gone'")
    press(driver, "start")
    wait(driver, "!document.querySelector('[data-do=start]').disabled")
    assert "gone/onnxruntime.js cannot be read" in one(driver, ".teach-start").text
    driver.execute_script("document.getElementById('teach').dataset.runtime = 'onnxruntime'")
    press(driver, "start")
    answered(driver)


def test_a_picture_is_taken_from_a_file(driver, page, tmp_path):
    at_work(driver, page)
    Image.new("RGB", (90, 40), "#d02020").save(tmp_path / "red.png")
    one(driver, "[data-square='2'] input").send_keys(str(tmp_path / "red.png"))
    wait(driver, "Teach.app.squares[1].picture.width === 256")
    answered(driver, "Teach.last.truth === null")
    _, support, _ = seen(driver)
    luminance = (0.299 * 0xD0 + 0.587 * 0x20 + 0.114 * 0x20) / 255
    assert (support[1] - (1 - luminance)).abs().max() < 1e-2


@pytest.mark.parametrize("width", [browser.DESKTOP, PHONE])
def test_it_can_be_read_on_any_screen_light_and_dark(driver, page, width):
    at_work(driver, page)
    browser.resize(driver, width)
    try:
        for theme in ("dark", "light"):
            assert browser.switch_theme(driver, theme)
            wrong = f"[...images(), ...paleness({check_pages.LEAST_CONTRAST}), ...overflow()]"
            assert check_pages.look(driver, wrong) == []
    finally:
        browser.switch_theme(driver, "light")


def test_nothing_moves_for_those_who_asked_for_that(driver, page):
    driver.get(page.as_uri())  # without what keeps pages still while they are looked at
    alone.ready(driver)
    start(driver, GRAY)
    for wish, name in (("no-preference", "teach-flow"), ("reduce", "none")):
        media = {"features": [{"name": "prefers-reduced-motion", "value": wish}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        look = "getComputedStyle(document.querySelector('[data-ray]')).animationName"
        assert driver.execute_script(f"return {look}") == name
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("lacking", ["WebAssembly", "DecompressionStream"])
def test_a_browser_that_cannot_shows_a_recording_and_says_so(driver, page, lacking):
    source = {"source": f"delete window.{lacking}"}
    hook = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        browser.visit(driver, page.as_uri())
        assert "cannot run" in one(driver, "#teach p").text
        assert driver.execute_script("return document.querySelector('#teach img').naturalWidth") > 0
        assert browser.errors(driver) == []
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", hook)


# What the page brings along is what it says


def test_the_runtime_is_the_package_that_its_folder_names():
    text = runtime.FILE.read_text("utf-8")
    readme = runtime.FILE.with_name("README.md").read_text("utf-8")
    assert runtime.PACKAGE in text.splitlines()[0] and runtime.PACKAGE in readme
    digests = {n: hashlib.sha256(data).hexdigest() for n, data in runtime.unpacked(text).items()}
    assert digests == runtime.SHA256
    assert runtime.unpacked(runtime.packed({"a": b"x", "b": b"y" * 99})) == {
        "a": b"x",
        "b": b"y" * 99,
    }


def test_the_pictures_are_those_of_the_test_classes():
    found = pictures.written()
    assert set(found) == set(pictures.EACH)
    for kind, (every, drawings) in pictures.EACH.items():
        names, sheet = pictures.sheet(getattr(tasks, kind)("test"), every, drawings)
        assert (found[kind]["names"], found[kind]["drawings"]) == (names, drawings)
        wanted = np.asarray(pictures.on_white(sheet).convert("RGB"))
        assert (np.asarray(found[kind]["sheet"]) == wanted).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_files_were_made_from_the_shipped_learner(name):
    (of,) = (of for of in learners.shown() if of["name"] == name)
    files = learners.unpacked(name)
    assert of == learners.described(name, files)
    assert set(files) == {"learn", "adapt", "classify"}


def test_every_listed_learner_has_its_script_and_no_other():
    assert {path.stem for path in learners.FOLDER.iterdir()} == set(NAMES) == set(learners.TITLES)
