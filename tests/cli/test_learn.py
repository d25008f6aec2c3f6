"""``metalearn-tut learn | demo``: from a reader's pictures to an answer and a file."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import command
from PIL import Image

from metalearn_tut import __main__, cli, tasks
from metalearn_tut.cli.commands import demo as demo_command
from metalearn_tut.cli.commands.learn import _label

NAMES = ["anchor", "boat", "crab", "drum", "egg"]
needs_onnx = pytest.mark.skipif(
    find_spec("onnxruntime") is None, reason="the extra deploy is not installed"
)


def picture(glyph, side=300, size=(420, 380), at=(70, 40)):
    """A glyph, as somebody would draw it: black, on a larger sheet."""
    mask = Image.fromarray(glyph.numpy()[0]).resize((side, side), Image.Resampling.BICUBIC)
    page = Image.new("L", size, 255)
    page.paste(0, at, mask)
    return page


TASK = tasks.glyphs("test").sampler(5, 1, 3, seed=9)[1]


@pytest.fixture
def five(tmp_path, monkeypatch):
    """A folder of five drawings, and three of other hands beside it."""
    monkeypatch.chdir(tmp_path)
    Path("five").mkdir()
    for name, x in zip(NAMES, TASK.support_x, strict=True):
        picture(x).save(f"five/{name}.png")
    for i in (0, 4, 13):
        picture(TASK.query_x[i], side=200, at=(10, 100)).save(f"new{i}.jpg")
    return Path("five")


@pytest.fixture
def kept_nothing(monkeypatch):
    """As without the extra deploy: to write and try a file takes seconds."""
    monkeypatch.setattr("metalearn_tut.cli.commands.learn.find_spec", lambda name: None)


def test_names_follow_from_five_drawings(five, capsys):
    code, out, said = command(capsys, "learn", five, "new0.jpg", "new4.jpg", "new13.jpg")
    assert code == 0 and not said
    lines = out.splitlines()
    assert lines[0] == f"5 pictures of 5 things: {', '.join(NAMES)}"
    assert lines[1] == "drawings in one color on plain ground, so glyphs_5way_1shot learns them"
    for line, i in zip(lines[2:5], (0, 4, 13), strict=True):
        assert line.startswith(f"new{i}.jpg: {NAMES[TASK.query_y[i]]} ")
        shares = [float(share) for share in re.findall(r"([\d.]+) %", line)]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.5)
    if find_spec("onnxruntime"):
        assert lines[5].startswith("learned.onnx: what it learned, for pictures 1 x 28 x 28 ")
        assert f"{Path('learned.onnx').stat().st_size:,} bytes" in lines[5]


@needs_onnx
def test_the_files_answer_the_same_without_pytorch(five, capsys):
    import onnxruntime

    words = ["--json", "--out", "mine.onnx", "--learner-out", "learns.onnx"]
    code, out, _ = command(capsys, "learn", five, "new4.jpg", *words)
    told = json.loads(out)
    assert code == 0 and told["labels"] == NAMES and told["pictures"] == "ink"
    assert told["files"] == {"learned": "mine.onnx", "learner": "learns.onnx"}
    assert not Path("learned.onnx").exists()
    (answer,) = told["answers"]
    from metalearn_tut.files.drawings import ink_square

    def seen(path):
        return (ink_square(Image.open(path), 28) / 255).astype(np.float32)[None]

    expected = [answer["probabilities"][name] for name in NAMES]
    mine = onnxruntime.InferenceSession("mine.onnx")
    notes = mine.get_modelmeta().custom_metadata_map
    assert json.loads(notes["labels"]) == NAMES and notes["learner"] == told["learner"]
    (logits,) = mine.run(None, {"x": seen("new4.jpg")})
    np.testing.assert_allclose(shares(logits), expected, atol=1e-4)
    support = np.concatenate([seen(f"five/{name}.png") for name in NAMES])
    given = {"support_x": support, "support_y": np.arange(5), "query_x": seen("new4.jpg")}
    (logits,) = onnxruntime.InferenceSession("learns.onnx").run(None, given)
    np.testing.assert_allclose(shares(logits), expected, atol=1e-4)


def shares(logits):
    e = np.exp(logits[0] - logits[0].max())
    return e / e.sum()


@pytest.mark.parametrize("form", ["folders", "zip", "numbers", "inside"])
@pytest.mark.usefixtures("kept_nothing")
def test_labels_are_names_of_files_or_folders_and_new_ones_are_none(five, capsys, form):
    where, new = five, "new4.jpg"
    if form == "folders":
        for i, name in enumerate(NAMES):
            Path(five, name).mkdir()
            Path(five, f"{name}.png").rename(Path(five, name, f"{i}.png"))
    if form == "zip":
        where = "five.zip"
        with zipfile.ZipFile(where, "w") as file:
            for name in NAMES:
                file.write(five / f"{name}.png", f"{name}.png")
    if form == "numbers":
        for name, x in zip(NAMES, TASK.support_x, strict=True):
            picture(x, side=220).save(five / f"{name}_2.png")
    if form == "inside":
        Path(new).rename(five / new)
        new = five / new
    code, out, said = command(capsys, "learn", where, new, "--json")
    told = json.loads(out)
    assert code == 0 and told["labels"] == NAMES, said
    assert told["answers"][0]["label"] == NAMES[TASK.query_y[4]]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat.png", "cat"),
        ("cat_2.png", "cat"),
        ("cat-12.jpg", "cat"),
        ("cat (3).png", "cat"),
        ("cat(3).png", "cat"),
        ("7.png", "7"),
        ("route66.png", "route66"),
        ("black cat 1.png", "black cat"),
        ("猫_1.png", "猫"),
        ("_3.png", "_3"),
        ("cat/1.png", "cat"),
    ],
)
def test_a_number_after_a_name_counts_pictures(name, label):
    assert _label(name, Path("f")) == label


@pytest.mark.usefixtures("kept_nothing")
def test_what_the_learner_was_not_made_for_is_said(five, capsys):
    for name in NAMES[:2]:
        Path(five, f"{name}.png").unlink()
    code, out, _ = command(capsys, "learn", five, "new4.jpg")
    assert code == 0 and "it was trained on tasks of 5 things: with 3 it is less sure" in out


@pytest.mark.usefixtures("kept_nothing")
def test_a_run_of_ones_own_can_be_named(five, capsys):
    training = "--width 4 --queries 2 --steps 2 --no-validate --data emoji --norm group"
    code, _, said = command(capsys, "train", "--out", "run", *training.split())
    assert code == 0, said
    code, out, said = command(capsys, "learn", five, "new4.jpg", "--learner", "run", "--json")
    assert code == 0 and json.loads(out)["learner"] == "run", said
    Path(five, "egg.png").unlink()
    code, _, said = command(capsys, "learn", five, "new4.jpg", "--learner", "run")
    assert code == 2 and "tasks have 4 ways, and the learner a head trained for 5" in said[0]


def test_without_onnxruntime_it_answers_and_says_what_would_keep_it(five, capsys, kept_nothing):
    code, out, _ = command(capsys, "learn", five, "new0.jpg")
    assert code == 0 and out.splitlines()[-1].startswith("nothing is kept: ONNX files need pip")


WRONG = {
    "nowhere new0.jpg": "FOLDER: there is no nowhere",
    "five gone.png": "NEW: there is no picture gone.png",
    "five five": "NEW: there is no picture five",
    "five text.png": "cannot decode the image text.png: it is no readable PNG",
    "empty new0.jpg": "empty must hold pictures of two things or more, named by what they show",
    "one new0.jpg": "(cat.png, dog.png, dog_2.png) or in a folder for each; all are called 'img'",
    "deep new0.jpg": "a/b/1.png in deep lies too deep",
    "five new0.jpg --out x.png": "--out must end in .onnx, got x.png",
    "five new0.jpg --learner-out x": "--learner-out must end in .onnx, got x",
    "five new0.jpg --out text.png/x.onnx": "--out: cannot write to",
    "five new0.jpg --learner none_such": "no run at none_such",
    "five": "Missing argument 'NEW...'",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_one_line_and_nothing_is_made(five, capsys, words):
    Path("text.png").write_text("not a picture")
    for name in ("empty", "one", "deep/a/b"):
        Path(name).mkdir(parents=True)
    for file in ("one/img_1.png", "one/img_2.png", "deep/a/b/1.png", "deep/x.png"):
        Image.new("L", (9, 9)).save(file)
    before = sorted(Path.cwd().rglob("*"))
    code, out, said = command(capsys, "learn", *words.split())
    assert code == 2 and not out and len(said) == 1 and WRONG[words] in said[0]
    assert sorted(Path.cwd().rglob("*")) == before


# The first look


def test_without_a_word_ten_lines_say_what_one_can_do(capsys):
    assert cli.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10 and all(len(line) <= 90 for line in lines)
    from metalearn_tut.cli.options import COMMANDS

    for options in COMMANDS:
        assert options.__name__.lower() in "\n".join(lines)
    assert __main__.main


def completed(*words):
    given = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    asked = {"_METALEARN_TUT_COMPLETE": "complete_bash"}
    code = (
        "import sys; from metalearn_tut.cli import program\n"
        "try: program.main()\nfinally: assert 'torch' not in sys.modules"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env={**os.environ, **given, **asked}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["le"], ["learn"]),
        (["learn", "--learner", "glyphs_5way_5"], ["glyphs_5way_5shot"]),
        (["evaluate", "omni"], ["omniglot_5way_1shot"]),
        (["train", "--norm", "g"], ["group"]),
        (["demo", "--b"], ["--book"]),
    ],
)
def test_tab_completes_without_pytorch(words, found):
    assert completed("metalearn-tut", *words) == found


@pytest.fixture
def opened(monkeypatch):
    """Addresses that a browser was told to open."""
    found = []
    monkeypatch.setattr("webbrowser.open", lambda address: not found.append(address))
    return found


def test_the_demo_is_opened_from_the_clone(opened, capsys):
    code, out, _ = command(capsys, "demo")
    assert code == 0 and out.split() == opened
    page = Path(opened[0].removeprefix("file://"))
    assert page.is_file() and page.parts[-2:] == ("teach", "index.html")


def test_the_demo_is_opened_from_a_book_that_is_named(opened, capsys, tmp_path):
    code, _, said = command(capsys, "demo", "--book", tmp_path)
    assert code == 2 and said == [
        f"metalearn-tut: --book {tmp_path}: there is no teach/index.html in it"
    ]
    (tmp_path / "teach").mkdir()
    (tmp_path / "teach/index.html").write_text("hello")
    assert command(capsys, "demo", "--book", tmp_path)[0] == 0
    assert opened == [(tmp_path / "teach/index.html").as_uri()]


@pytest.mark.parametrize("owner", ["YOUR_ACCOUNT", "Somebody"])
def test_outside_a_clone_the_demo_is_on_the_site_if_there_is_one(
    opened, capsys, tmp_path, monkeypatch, owner
):
    monkeypatch.setattr(demo_command, "_places", lambda given: iter([tmp_path]))
    address = f"Repository, https://github.com/{owner}/metalearn-tut"
    about = type("Metadata", (), {"get_all": lambda self, name: ["Other, x", address]})()
    monkeypatch.setattr(demo_command, "metadata", lambda name: about)
    code, _, said = command(capsys, "demo")
    if owner == "Somebody":
        assert code == 0
        assert opened == ["https://somebody.github.io/metalearn-tut/teach/index.html"]
    else:
        assert code == 2 and not opened and "name the folder of the unzipped book" in said[0]


def test_without_a_browser_the_address_is_said(capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    code, out, _ = command(capsys, "demo")
    assert code == 0 and out.splitlines()[1] == (
        "no browser could be started: open this page in one"
    )


def test_the_demo_is_served(capsys, monkeypatch):
    held = []

    class Server(demo_command.ThreadingHTTPServer):
        def serve_forever(self, *given):
            held.append(self)
            super().serve_forever(*given)

    monkeypatch.setattr(demo_command, "ThreadingHTTPServer", Server)
    thread = threading.Thread(target=cli.run, args=(["demo", "--port", "0"],))
    thread.start()
    while not held:
        thread.join(0.01)
        assert thread.is_alive()
    address = f"http://127.0.0.1:{held[0].server_port}/teach/index.html"
    with urllib.request.urlopen(address) as page:
        assert b"Teach it five things" in page.read()
    held[0].shutdown()
    thread.join()
    assert address in capsys.readouterr().out
