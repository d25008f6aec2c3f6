"""The pages of the book fit together, and so do the files around them."""

import ast
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import check_book
import contract
import nbformat
import pytest
import yaml
from contract_code import figure_names, imported, undeclared
from contract_text import citations, glossary_terms, links, spelling
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name for line in requirements}


CORE = names(PROJECT["dependencies"])
EVERY = CORE.union(*(names(lines) for lines in EXTRAS.values()))


def test_figure_names_are_used_once():
    found = [n for path in BOOK.glob("*.ipynb") for n in figure_names(nbformat.read(path, 4))]
    assert len(found) == len(set(found))


def test_the_table_of_contents_names_every_page_and_no_other():
    toc = list(check_book.toc_names(yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))))
    found = [path.relative_to(BOOK).with_suffix("").as_posix() for path in contract.pages()]
    assert sorted(toc) == sorted(found)


def test_every_public_module_has_a_page():
    package = ROOT / "metalearn_tut"
    modules = {path.stem for path in package.glob("*.py")}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    public = {name for name in modules if not name.startswith("_")}
    documented = set()
    for page in (BOOK / "api").glob("*.md"):
        documented |= set(re.findall(r"automodule:: metalearn_tut\.(\w+)$", page.read_text(), re.M))
    assert documented == public


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_front_pages_lead_somewhere(name):
    for target in links((ROOT / name).read_text("utf-8")):
        assert (ROOT / target).exists(), f"{name}: {target}"


def test_links_of_the_book_lead_somewhere():
    for path in contract.pages():
        for target in links(contract.page_text(path)):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_links_are_found_in_markdown():
    text = "[a](b.md#c) [d](https://e.f) [g](#h) `[i](j.md)` [k](<l.md>)"
    assert links(text) == ["b.md", "l.md"]
    blocks = "```{note}\n[a](b.md)\n```\n\n[c](d.md)\n\n```{note}\n```\n\n```\n[e](f.md)\n```"
    assert links(blocks) == ["b.md", "d.md"]


@pytest.mark.parametrize("path", sorted(BOOK.rglob("*.md")), ids=lambda path: path.stem)
def test_spelling_of_the_pages_is_american(path):
    named = re.sub(r"^\.\. auto.*$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    found = set(spelling(named))
    assert found == set()


def test_spelling_is_read_in_glossaries_too():
    text = "# A\n\n```{glossary}\nterm\n  Some `code` of colour.\n```\n\n```python\ngrey = 1\n```"
    assert list(spelling(text)) == ["'colour' is British spelling"]


def test_labels_of_exercises_are_used_once():
    """Of two exercises with one label the book would show one, without a warning."""
    found = [
        x
        for p in contract.pages()
        for x in re.findall(r"^:label: (\S+)$", contract.page_text(p), re.M)
    ]
    assert len(found) > 8 and len(found) == len(set(found))


def test_every_source_is_cited_and_every_citation_has_a_source():
    cited = set().union(*(citations(contract.page_text(p)) for p in contract.pages()))
    bib = (BOOK / "references.bib").read_text("utf-8")
    assert cited == set(re.findall(r"^@\w+\{(\S+),$", bib, re.MULTILINE))


@pytest.mark.parametrize("folder", ["metalearn_tut", "tests", "tools", "benchmarks"])
def test_imports_are_declared_dependencies(folder):
    inside = folder == "metalearn_tut"
    optional = names([*EXTRAS["federated"], *EXTRAS["deploy"]])  # their modules ask for them
    declared = {name.lower() for name in (CORE | optional if inside else EVERY)}
    own = {
        name
        for place in (
            "tools",
            "tools/paper_scale",
            "book/_ext",
            "benchmarks",
            "conformance_peers",
            folder,
        )
        for path in (ROOT / place).rglob("*.py")
        for name in (path.stem, path.parent.name)
    }
    for path in (ROOT / folder).rglob("*.py"):
        found = imported(ast.parse(path.read_text("utf-8")))
        assert undeclared(found - (set() if inside else own), declared) == set(), path


def test_every_term_says_where_it_is_taught_with_a_picture_of_that_chapter():
    text = (BOOK / "glossary.md").read_text("utf-8")
    terms = glossary_terms(text)
    entries = re.split(r"(?m)^(?=\S)", text)
    shown = {p.stem: figure_names(nbformat.read(p, 4)) for p in BOOK.glob("*.ipynb")}
    places = re.compile(r"^  (?:Taught in|In the package:) \{doc\}`(?:[\w ]+ <)?([\w/]+)>?`", re.M)
    for term in terms:
        (entry,) = [e for e in entries if e.startswith(f"{term}\n")]
        (place,) = places.findall(entry)
        assert (BOOK / f"{place}.ipynb").is_file() or (BOOK / f"{place}.md").is_file()
        for figure in re.findall(r"\{numref\}`([\w-]+)`", entry):
            assert figure in shown[place], f"{term}: {figure} is not in {place}"
        if place in shown:  # the chapter uses the word
            page = contract.page_text(BOOK / f"{place}.ipynb")
            word = re.escape(term).replace(r"\ ", r"[\s-]+")
            assert re.search(word, page, re.IGNORECASE), f"{place} never says {term}"


def test_what_a_room_offers_stands_on_its_page_once():
    rooms = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))["parts"][-1]["chapters"]
    (user,) = (part for part in rooms if part["file"] == "api/index")
    for file in (section["file"] for section in user["sections"]):
        room = file.rpartition("/")[2]
        if room in ("cli", "claims"):
            continue
        text = (BOOK / f"{file}.md").read_text("utf-8")
        listed = re.findall(rf"auto(?:function|class):: metalearn_tut\.{room}\.(\w+)$", text, re.M)
        module = importlib.import_module(f"metalearn_tut.{room}")
        offered = {
            name
            for name in getattr(module, "__all__", listed)
            if inspect.isfunction(getattr(module, name)) or inspect.isclass(getattr(module, name))
        }
        assert sorted(listed) == sorted(offered), room
        first = text.index("```python")
        assert first < text.index("{eval-rst}"), f"{room}: a use comes first"


def test_the_function_for_flower_is_a_federation():
    """The page's own code, run; and the settings are those that LocalFlower takes."""
    from metalearn_tut import gating
    from metalearn_tut.federated.flower.app import DEFAULTS
    from metalearn_tut.federated.flower.local import LocalFlower

    text = (BOOK / "api" / "federated.md").read_text("utf-8").partition("## The same rounds")[2]
    module, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space = {}
    exec(module, space)
    federation = space["experiment"](nodes=10, rounds=1)
    assert len(federation.nodes) == 8 and isinstance(federation.learner, gating.MetaGater)
    exec(use.partition("with ")[0], space)
    assert set(space["config"]) <= set(DEFAULTS)
    assert len(space["experiment"](**json.loads(space["config"]["arguments"])).nodes) == 8
    call = re.search(r"LocalFlower\((.*)\) as flower", use)[1]
    taken = inspect.signature(LocalFlower).bind("folder", clients=8, config={}).arguments
    assert re.findall(r"(\w+)=", call) == [name for name in taken if name != "folder"]
    inspect.signature(LocalFlower.run).bind(None, limit=3600)
