"""Every chapter keeps the contract of ``tools/contract.py``, and the pages fit together."""

import ast
import re
import sys
from pathlib import Path

import check_book
import contract
import format_notebooks
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
SETUP = (BOOK / "first_cell.py").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name for line in requirements}


CORE = names(PROJECT["dependencies"])
EVERY = CORE.union(*(names(lines) for lines in EXTRAS.values()))


# Every notebook, and a notebook that breaks each rule


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_chapter_keeps_the_contract(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert contract.breaches(notebook, SETUP, CORE) == []


def test_figure_names_are_used_once():
    found = [n for path in NOTEBOOKS for n in contract.figure_names(nbformat.read(path, 4))]
    assert len(found) == len(set(found))


FIGURE = {
    "figure": {"name": "fig-path", "caption": "Five steps."},
    "image": {"alt": "A point that moves towards the minimum in ever smaller steps."},
}


def chapter(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook that keeps the contract, and ``cells``."""
    start = [
        new_markdown_cell("# Title\n\nText with $a < b > c$, `<b>` and {cite:p}`finn2017maml`."),
        new_code_cell(SETUP.rstrip("\n")),
        new_code_cell(
            "import matplotlib.pyplot as plt\nimport torch\n\nfrom metalearn_tut import nb"
        ),
        new_code_cell("plt.plot([1, 2])", metadata={"mystnb": FIGURE}),
    ]
    notebook = new_notebook(cells=[*start, *cells])
    return format_notebooks.formatted(notebook, SETUP.rstrip("\n"))


def broken(notebook: nbformat.NotebookNode) -> str:
    return "; ".join(contract.breaches(notebook, SETUP, CORE))


def test_a_chapter_that_keeps_the_contract_passes():
    definition = "def f():\n" + "    x = 1\n" * 34
    text = ":::{note}\nBody.\n:::\n\n```python\nx << 1  # <b>\n```\n\n<https://a.b> <details>"
    assert broken(chapter(new_code_cell(definition.rstrip("\n")), new_markdown_cell(text))) == ""


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("x = 1\n" * 25, "has 26 lines"),
        ("def f():\n" + "    x = 1\n" * 34 + "    x", "has 36 lines"),
        ("%timeit f()", "not plain Python"),
        ("!pip install torch", "not plain Python"),
        ("import torch", "imports stand in the first two"),
        ("def f():\n    import scipy", "imports scipy, which no dependency declares"),
        ("def f():\n    global x", "uses global"),
        ("os.chdir('/')", "calls os.chdir"),
        ("if x:\n    time.sleep(1)", "calls time.sleep"),
        ("# NBVAL_SKIP\nx = 1", "NBVAL_ comment"),
        ("fig, ax = plt.subplots()", "needs a caption"),
        ("for x in y:\n    plots.curve(x)", "alternative text"),
    ],
)
def test_a_code_cell_that_breaks_a_rule_is_named(source, sentence):
    assert sentence in broken(chapter(new_code_cell(source)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("```{note}\nBody.\n```", "colon fence"),
        ("The value is {glue}`x`.", "{glue}"),
        ("A <b>bold</b> word", "raw HTML"),
        ("<img src='x.png'>", "raw HTML"),
        ("Write <<name>> here", "placeholder"),
        (r"$\newcommand{\R}{x} \R$", "macro"),
        ("![a plot](plot.png)", "draw it in a cell"),
    ],
)
def test_a_text_cell_that_breaks_a_rule_is_named(text, sentence):
    assert sentence in broken(chapter(new_markdown_cell(text)))


def without_alt(notebook):
    del notebook.cells[3].metadata["mystnb"]["image"]


def with_output(notebook):
    notebook.cells[2].execution_count = 1


def other_first_cell(notebook):
    notebook.cells[1].source += "\nx = 1"


def other_kernel(notebook):
    notebook.metadata.kernelspec = {"name": "conda-env", "display_name": "x"}


def old_format(notebook):
    notebook.nbformat_minor = 4


def twin_ids(notebook):
    notebook.cells[0].id = notebook.cells[1].id


def skipping_tag(notebook):
    notebook.cells[2].metadata["tags"] = ["nbval-skip"]


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (without_alt, "alternative text"),
        (with_output, "outputs or execution counts"),
        (other_first_cell, "first code cell"),
        (other_kernel, "kernel"),
        (old_format, "format 4.4"),
        (twin_ids, "ids of their own"),
        (skipping_tag, "nbval-skip"),
    ],
)
def test_a_notebook_that_breaks_a_rule_is_named(plant, sentence):
    notebook = chapter()
    assert broken(notebook) == ""
    notebook.cells[3].metadata = nbformat.from_dict({"mystnb": dict(FIGURE)})
    plant(notebook)
    assert sentence in broken(notebook)


def test_formatting_brings_a_used_notebook_into_the_kept_form(tmp_path):
    notebook = chapter()
    notebook.cells[1].source = "# Setup of last year"
    with_output(notebook)
    other_kernel(notebook)
    (tmp_path / "first_cell.py").write_text(SETUP)
    nbformat.write(notebook, tmp_path / "01.ipynb")
    format_notebooks.main(tmp_path)
    assert broken(nbformat.read(tmp_path / "01.ipynb", as_version=4)) == ""
    before = (tmp_path / "01.ipynb").stat().st_mtime_ns
    format_notebooks.main(tmp_path)
    assert (tmp_path / "01.ipynb").stat().st_mtime_ns == before


# The pages together


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
    for target in contract.links((ROOT / name).read_text("utf-8")):
        assert (ROOT / target).exists(), f"{name}: {target}"


def test_links_of_the_book_lead_somewhere():
    for path in contract.pages():
        for target in contract.links(contract.page_text(path)):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_links_are_found_in_markdown():
    text = "[a](b.md#c) [d](https://e.f) [g](#h) `[i](j.md)` [k](<l.md>)"
    assert contract.links(text) == ["b.md", "l.md"]


def test_every_source_is_cited_and_every_citation_has_a_source():
    cited = set().union(*(contract.citations(contract.page_text(p)) for p in contract.pages()))
    bib = (BOOK / "references.bib").read_text("utf-8")
    assert cited == set(re.findall(r"^@\w+\{(\S+),$", bib, re.MULTILINE))


@pytest.mark.parametrize("folder", ["metalearn_tut", "tests", "tools", "benchmarks"])
def test_imports_are_declared_dependencies(folder):
    inside = folder == "metalearn_tut"
    declared = {name.lower() for name in (CORE | names(EXTRAS["federated"]) if inside else EVERY)}
    own = {path.stem for place in ("tools", folder) for path in (ROOT / place).glob("*.py")}
    for path in (ROOT / folder).rglob("*.py"):
        found = contract.imported(ast.parse(path.read_text("utf-8")))
        assert contract.undeclared(found - (set() if inside else own), declared) == set(), path
