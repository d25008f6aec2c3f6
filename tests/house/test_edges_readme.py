"""Every line of code and every command of the README and of the pages that it sends a reader to,
"Install" and "Use the package", run as it stands there, in its order.

What would take minutes is cut without a change to the text: commands get the options of CUT
appended, of which the last counts, and long functions are called with fewer steps. With
METALEARN_TUT_SLOW=1 nothing of the first Python example is cut, and its number is compared.
"""

import ast
import contextlib
import importlib
import io
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import set_repository
import torch
from packaging.requirements import Requirement
from PIL import Image

import metalearn_tut
from metalearn_tut import block_voting, models, saliency, tasks
from metalearn_tut.block_voting import Recipe
from metalearn_tut.claims import STUDIES
from metalearn_tut.cli import program as cli
from metalearn_tut.cli.options import Learn
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.rank_losses import LogNormalGuidance
from metalearn_tut.runs.options import options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "book/install.md", "book/using.md")
TEXT = "\n".join((ROOT / name).read_text("utf-8") for name in PAGES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CLI = "metalearn_tut.cli"
SLOW = os.environ.get("METALEARN_TUT_SLOW") == "1"
OUTPUT = re.search(r"```text\n(.*?)```", TEXT, re.S)[1].splitlines()
CUT = {
    "train": "--steps 1 --tasks-per-step 1 --width 4 --queries 1 --no-validate --processes 1",
    "evaluate": "--tasks 2 --queries 1",
    "prune": "--keep 0.95 --tasks 1 --steps 1 --tasks-per-step 1",
    "federate": "--rounds 1 --nodes 2 --local-steps 1 --width 4 --queries 1",
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
PYTHON = [body for language, body in _FENCE.findall(TEXT) if language == "python"]
SHELL = [
    part.strip()
    for language, body in _FENCE.findall(TEXT)
    for line in (body.splitlines() if not language else ())
    for part in line.partition("  #")[0].split("&&")
]
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"\{doc\}`[^`]+`", "", _FENCE.sub("", TEXT)))
PREFIXES = (
    *("metalearn-tut ", "make", "python ", "pip ", ".venv/bin/", "conda ", "METALEARN_TUT_DATA="),
)
OPTIONS = [s for s in SPANS if s.startswith("--")]
NAMES = [s for s in SPANS if re.fullmatch(r"\w+\.(png|jpg|html|onnx)", s)]
NAMES += ["YOUR_ACCOUNT", "sha256sum", "deploy", "federated"]
COMMANDS = [span for span in SPANS if span.startswith(PREFIXES)]
PLACES = [s for s in SPANS if s not in COMMANDS and re.fullmatch(r"[\w./]+(/|\.(json|py|txt))", s)]
CODE = [s for s in SPANS if s not in (*COMMANDS, *PLACES, *OPTIONS, *NAMES, ".venv")]
OURS = [line for line in (*SHELL, *COMMANDS) if line.startswith("metalearn-tut ")]


def test_everything_that_stands_in_the_readme_is_of_a_kind_that_is_run():
    assert len(PYTHON) == 2 and len(SHELL) >= 12 and len(COMMANDS) >= 15 and len(CODE) >= 8
    assert TEXT.count("```") == 2 * len(_FENCE.findall(TEXT))
    for name in ("demo", "learn", "train", "evaluate", "prune", "federate", "export", "reproduce"):
        assert any(f"{line} ".startswith(f"metalearn-tut {name} ") for line in OURS), name
    for option in OPTIONS:
        flag = option.split()[0].removeprefix("--").replace("-", "_")
        assert flag in options_of(Learn), option


def write_pictures():
    """``my_pictures``: twelve classes of two small drawings, as a reader may have them.

    And ``five_pictures``, with ``new.png``.
    """
    Path("five_pictures").mkdir()
    for i in range(6):
        where = "new.png" if i == 5 else f"five_pictures/{'abcde'[i]}.png"
        picture = Image.new("L", (60, 50), 255)
        picture.paste(0, (5 + 5 * (i % 5), 10, 30, 20 + 4 * (i % 5)))
        picture.save(where)
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = Path("my_pictures", f"class {i}")
        folder.mkdir(parents=True)
        for j in range(2):
            pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{j}.png")


# Commands of the package


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Exit code and what was said of each ``metalearn-tut`` line: in their order, in one folder."""
    found, here = {}, Path.cwd()
    os.chdir(tmp_path_factory.mktemp("reader"))
    write_pictures()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{CLI}.commands.reproduce.decide", lambda study, **_: True)  # hours
            patch.setattr("webbrowser.open", lambda address: True)
            for line in OURS:
                found[line] = [run(words) for words in filled(line)]
    finally:
        os.chdir(here)
    return found


def filled(line):
    """A line's words; where it says NAME, those of each study."""
    words = shlex.split(line)[1:]
    for name in STUDIES if "NAME" in words else ("",):
        yield [name if word == "NAME" else word for word in words]


def run(words):
    if words[0] == "export" and find_spec("onnxruntime") is None:
        return None
    if words == ["--install-completion"]:  # would change this machine's shell
        return 1 - int("--install-completion" in program_help())
    return cli.run([*words, *CUT.get(words[0], "").split()])


def program_help():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        cli.run(["--help"])
    return said.getvalue()


@pytest.mark.parametrize("line", OURS)
def test_a_command_of_the_package_runs_as_it_stands(ran, line):
    if None in ran[line]:
        pytest.skip("the extra deploy is not installed")
    assert ran[line] and set(ran[line]) == {0}


# Python


@pytest.fixture
def reader(monkeypatch, tmp_path):
    """Names that the text gives a reader, and long functions cut to a step."""
    monkeypatch.chdir(tmp_path)
    write_pictures()
    asked = []

    def meta_train(learner, sampler, *, steps, **options):
        asked.append(steps)
        return of_package(learner, sampler, steps=1, **{**options, "progress": False})

    of_package, whole = metalearn_tut.meta_train, metalearn_tut.evaluate
    monkeypatch.setattr(metalearn_tut, "meta_train", meta_train)
    few = {} if SLOW else {"n_tasks": 2}
    monkeypatch.setattr(metalearn_tut, "evaluate", lambda *given: whole(*given, **few))
    task = tasks.glyphs("test").sampler(5, 1, 15, seed=3)[0]
    rng = np.random.default_rng(0)
    given = {"support_x": task.support_x, "support_y": task.support_y, "query_x": task.query_x}
    given |= {"x": rng.integers(0, 256, (300, 1, 28, 28), dtype=np.uint8)}
    given |= {"y": np.arange(300) // 6, "task": task, "asked": asked}
    return given


def test_the_first_example_learns_deploys_and_prints_its_numbers(reader, capsys):
    exec(PYTHON[0], reader)
    query = reader["task"].query_x
    expected = reader["predict"](query)
    torch.testing.assert_close(reader["network"](tasks.as_float(query)), expected)
    first, second = capsys.readouterr().out.splitlines()
    assert first == OUTPUT[0]
    mean, half = re.match(r"([\d.]+) ± ([\d.]+) \(\d+ tasks", second).groups()
    if SLOW:
        known = re.match(r"([\d.]+) ± ([\d.]+) \(\d+ tasks", OUTPUT[1]).groups()
        assert [float(mean), float(half)] == pytest.approx([*map(float, known)], abs=2e-4)
    assert 0.8 < float(mean) <= 1


def test_the_second_example_trains_a_learner_of_ones_own(reader):
    exec(PYTHON[1], reader)
    assert reader["asked"] == [2000]
    for split in ("train", "validation", "test"):
        assert reader[split].n_classes >= 5
    found = metalearn_tut.runs.building.checkpoint.read("runs/mine/last.safetensors")[0]
    for name, p in reader["learner"].meta_parameters().items():
        assert torch.equal(found[f"meta.{name}"], p), name


@pytest.fixture
def names(reader):
    """What the bullet points' code is about."""
    network = models.Conv4(1, ways=5, width=4, norm="support")
    sampler = tasks.glyphs("train").sampler(5, 1, 2)
    short, made = Recipe(1, 0.01), np.random.default_rng(0)

    class Short:
        """``block_voting``, with an epoch for each stage."""

        @staticmethod
        def abp_prune(*given, **options):
            recipes = (short, short, short)
            return block_voting.abp_prune(*given, recipes=recipes, progress=False, **options)

    class Small:
        """``models``, with the smallest network of the kind."""

        @staticmethod
        def CifarResNet(depth):
            assert models.CifarResNet(depth).depth == depth
            return models.CifarResNet(20)

    return {
        **{"learner": metalearn_tut.MAML(network), "sampler": sampler, "inf": math.inf},
        **{"meta_train": metalearn_tut.meta_train, "clean_losses": lambda: torch.rand(8)},
        **{"teacher": metalearn_tut.MAML(network), "student": metalearn_tut.MAML(network)},
        **{"images": made.random((12, 3, 8, 8), np.float32), "labels": np.arange(12) % 3},
        **{"block_voting": Short, "models": Small, "saliency": saliency, "tasks": tasks},
        **{"MetaDistiller": MetaDistiller, "LogNormalGuidance": LogNormalGuidance},
    }


@pytest.mark.parametrize("span", dict.fromkeys(CODE))
def test_code_within_the_text_runs_as_it_stands(names, span):
    exec("from metalearn_tut import RankedRange", names)
    if span in metalearn_tut.pretrained.available():
        assert metalearn_tut.pretrained.load(span)
    elif re.fullmatch(r"(metalearn_tut|higher)(\.[a-z_]+)*", span):
        importlib.import_module(span)
    else:
        exec(span, names)


def test_what_the_bullet_points_call_does_what_they_say(names):
    exec("from metalearn_tut import RankedRange", names)
    calls = {ast.parse(s).body[0].value.func.id: s for s in CODE if re.match(r"\w+\(\w", s)}
    history = eval(calls["meta_train"], names)
    assert len(history.loss) == 1
    assert isinstance(eval(calls["MetaDistiller"], names), MetaDistiller)
    weights = eval(calls["LogNormalGuidance"], names)
    assert weights.source is names["clean_losses"] and weights.z_low == -math.inf
    (prune,) = (s for s in CODE if "abp_prune(" in s)
    pruned = eval(prune, names)
    assert len(pruned.network.blocks) == 9 - math.floor(0.4 * 9)


# Commands of other programs


def make(words):
    """What make would do; it must know every target and every variable."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for name in (word.split("=")[0] for word in words if "=" in word):
        assert re.search(rf"^{name} +\?=", makefile, re.M), name
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pip_install(words):
    """What is installed exists: this project, its extras, or a file of constraints."""
    while words:
        word = words.pop(0)
        if word == "-c":
            assert (ROOT / words.pop(0)).is_file()
        elif word == "-e" or word.startswith("."):
            place = words.pop(0) if word == "-e" else word
            extras = re.fullmatch(r"\.\[(.+)\]", place)[1].split(",")
            assert set(extras) <= PROJECT["optional-dependencies"].keys()
        else:
            wanted = Requirement(word)
            if wanted.name == PROJECT["name"]:
                assert wanted.url == f"git+{PROJECT['urls']['Repository']}"
            else:
                assert wanted.name in ("torch", "jupyterlab")


def same_in(file):
    """The line stands in another file, which tests or builds with it."""
    text = " ".join((ROOT / file).read_text("utf-8").replace("\\\n", " ").split())
    text = text.replace("$(BIN)/", "").replace("python -m ", "").replace("$(JOBS)", "2")

    def check(words):
        for part in words:
            assert f" {part} " in f" {text} ", part

    return check


def script(words):
    """A script of this repository: it runs, or says how."""
    if words[0] == "tools/set_repository.py":  # would change this repository
        assert set_repository.slug_of(words[1]) == "OWNER/NAME"
        return
    if "NAME" in words:
        words = [words[0], "--help"]  # hours
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(sys, "argv", words)
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as end:
            assert not end.code
    assert said.getvalue()


PROGRAMS = {
    "make": make,
    "pip install": pip_install,
    ".venv/bin/python -m pip install": pip_install,
    "git clone": lambda words: [words] == [[PROJECT["urls"]["Repository"]]] or pytest.fail(words),
    "cd": lambda words: words == [PROJECT["name"]] or pytest.fail(words),
    "python3 -m venv": lambda words: words == [".venv"] or pytest.fail(words),
    ". .venv/bin/activate": lambda words: words == [] or pytest.fail(words),
    ".venv/bin/jupyter lab": lambda words: (ROOT / words[0]).is_dir() or pytest.fail(words),
    "conda env create -f": lambda words: (ROOT / words[0]).is_file() or pytest.fail(words),
    "ruff": lambda words: same_in("Makefile")([f"ruff {' '.join(words)}"]),
    "pytest": same_in("Makefile"),
    "jupyter-book": same_in("_config.yml"),
    "python": script,
}


@pytest.mark.parametrize(
    "line", dict.fromkeys(c for c in (*SHELL, *COMMANDS) if not c.startswith("metalearn-tut "))
)
def test_a_command_of_another_program_is_one_that_it_knows(line):
    words = shlex.split(line)
    if words[0].startswith("METALEARN_TUT_DATA="):
        words = words[1:]
    known = max((p for p in PROGRAMS if " ".join(words).startswith(p)), key=len)
    PROGRAMS[known](words[len(known.split()) :])


@pytest.mark.parametrize("place", dict.fromkeys(PLACES))
def test_a_place_that_is_named_is_there(place):
    assert (ROOT / place).exists()
    assert (ROOT / place).is_dir() == place.endswith("/")
