"""What was measured is written into its pages in every build."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    monkeypatch.setattr(sys, "path", list(sys.path))
    import results_in_pages

    return results_in_pages


NAMES = [
    "A2_reproducing",
    "benchmarks",
    "claims",
    "conformance",
    "intro",
    "install",
    "teach_it",
    "using",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_filled_and_others_are_left_as_they_are(extension, name):
    text = (ROOT / "book" / f"{name}.md").read_text("utf-8")
    source = [text]
    extension.write(None, "notation", source)
    assert source == [text]
    extension.write(None, name, source)
    for part, said in import_module(extension.PAGES[name]).generated().items():
        text = text.replace(f"% from results: {part}\n", f"{said}\n")
    assert source == [text] and "% from results" not in text


def test_sphinx_fills_them_anew_in_every_build(extension):
    env = SimpleNamespace(found_docs={"notation", "benchmarks", "claims"})
    assert extension.always(None, env, set(), set(), set()) == ["benchmarks", "claims"]
    env = SimpleNamespace(found_docs={"notation", "claims"})
    assert extension.always(None, env, set(), set(), set()) == ["claims"]
    hooks = []
    extension.setup(SimpleNamespace(connect=lambda *hook: hooks.append(hook)))
    assert hooks == [("source-read", extension.write), ("env-get-outdated", extension.always)]
    sphinx = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]
    assert "results_in_pages" in sphinx["config"]["extensions"]
    assert sphinx["local_extensions"]["results_in_pages"] == "book/_ext"


def test_a_page_without_its_marks_ends_the_build(extension):
    with pytest.raises(ValueError, match=r"benchmarks\.md needs one line .* it has answer$"):
        extension.write(None, "benchmarks", ["# Speed\n\n% from results: answer\n"])
    with pytest.raises(ValueError, match=r"claims\.md needs one line .* it has none$"):
        extension.write(None, "claims", ["# Claims"])


def test_the_tools_are_found_above_the_book_or_where_the_build_was_started(
    extension, monkeypatch, tmp_path
):
    assert extension.tools() == ROOT / "tools"
    monkeypatch.setattr(extension, "__file__", str(tmp_path / "_ext" / "results_in_pages.py"))
    monkeypatch.chdir(ROOT)
    assert extension.tools() == ROOT / "tools"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="build the book in a clone"):
        extension.tools()
