"""Every chapter keeps the contract of ``tools/contract.py``, and each of its rules can fail."""

import re
import sys
from pathlib import Path

import contract
import contract_code
import contract_symbols
import contract_text
import format_notebooks
import nbformat
import pytest
from contract_cases import (
    APPENDIX,
    FIGURE,
    SETUP,
    appendix,
    broken,
    cell_with,
    chapter,
    replaced,
)
from nbformat.v4 import new_code_cell, new_markdown_cell
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
AROUND = contract.Around(
    first_cell=(BOOK / "first_cell.py").read_text("utf-8"),
    declared={Requirement(line).name for line in PROJECT["dependencies"]},
    notation=(BOOK / "notation.md").read_text("utf-8"),
    glossary=(BOOK / "glossary.md").read_text("utf-8"),
)


# Every notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_chapter_keeps_the_contract(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = contract.breaches(notebook, path.stem, AROUND)
    assert found == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_definition_of_the_chapter_is_tested(path):
    number = path.stem.partition("_")[0].lower()
    test = ROOT / "tests" / "book" / f"test_book_{'ch' * number.isdigit()}{number}.py"
    source = test.read_text("utf-8") if test.is_file() else ""
    defined = contract_code.definitions(nbformat.read(path, as_version=4))
    missing = {name for name in defined if not re.search(rf"""[."']{name}\b""", source)}
    assert missing == set(), f"never used in {test}"


# A chapter that breaks a rule


def test_a_chapter_that_keeps_the_contract_passes():
    definition = "def f():\n" + "    x = 1\n" * 34
    text = ":::{note}\nBody.\n:::\n\n```python\nx << 1  # <b>\n```\n\n<https://a.b> <details>"
    assert broken(chapter(new_code_cell(definition.rstrip("\n")), new_markdown_cell(text))) == ""


def test_an_appendix_has_a_shape_of_its_own():
    assert broken(appendix(), APPENDIX) == ""
    assert "sections must be In one minute" in broken(appendix())
    long = appendix()
    long.cells[-1].source += " word" * 1700
    assert re.fullmatch(r"2\d{3} words, 300 to 2000 are allowed", broken(long, APPENDIX))
    for text, source, sentence in (
        ("## The loop", "Loop.", "sections must be The question; ...; Exercises; Summary"),
        ("is it small?", "**Predict:** no", "sections must be The question"),
        ("## Summary", "## Summary", "the last cell needs '[Open an issue"),
    ):
        notebook = appendix()
        cell_with(notebook, text).source = source
        assert sentence in broken(notebook, APPENDIX)
    late = appendix()
    at = late.cells.index(cell_with(late, "print(torch"))
    late.cells.insert(at, new_markdown_cell("Wait."))
    assert "stands before no code cell" in broken(late, APPENDIX)
    lengthy = appendix()
    for cell in contract_code.code_cells(lengthy)[2:]:
        cell.source += "\n" * 15
    assert "lines in the median cell, 1 to 12 are allowed" in broken(lengthy, APPENDIX)


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
        ("found = 2", "takes found, which the cells 7 and 9 both make"),
        ("my_one(3)", "my_one is used in code cells [9, 11]"),
    ],
)
def test_a_code_cell_that_breaks_a_rule_is_named(source, sentence):
    assert sentence in broken(chapter(new_code_cell(source)))


DATA = """try:
    drawings = tasks.omniglot("test")
except FileNotFoundError:
    print("Omniglot is not here")
"""


def test_data_that_may_be_missing_is_asked_for_with_care():
    assert broken(chapter(new_code_cell(DATA))) == ""
    for source in (DATA.replace("FileNotFound", "Value"), "x = tasks.omniglot('test')"):
        sentence = "code cell 9 calls tasks.omniglot and does not catch FileNotFoundError"
        assert sentence in broken(chapter(new_code_cell(source)))
    needing = chapter(new_code_cell(DATA), new_code_cell("print(drawings)"))
    assert "cell 10 takes drawings, which cell 9 makes if data is there" in broken(needing)


def test_a_value_that_a_function_or_a_comprehension_takes_counts_as_taken():
    for use in ("def f():\n    return [g for _ in v]", "[v for _ in 'ab']", "v += 1\nlambda: w"):
        made, taken = contract_code.made_and_taken(use)
        assert made <= {"f", "v"} and taken & {"v", "w"}
    assert contract_code.made_and_taken("import a.b\nfor i in a: j = i") == ({"a", "i", "j"}, set())


@pytest.mark.parametrize(
    ("source", "made", "taken"),
    [
        ("x = [v for i in a]", "x", "v a"),
        ("x = {v: w for i in a if i}", "x", "v w a"),
        ("x = {v for i in a for j in i}", "x", "v a"),
        ("x = [[i * j for i in a] for j in b]", "x", "a b"),
        ("x = sum(i for i in a)", "x", "sum a"),
        ("x = [last := i for i in a]", "x last", "a"),  # a walrus names it for the whole cell
        ("f = lambda: [i for i in a]", "f", "a"),
        ("class A:\n    x = [i for i in a]", "A", "a"),
        ("def f(b):\n    return {i: b for i in a}", "f", "a"),
        ("i = 1\nx = [i for i in a]", "i x", "a"),
    ],
)
def test_names_of_a_comprehension_are_its_own_on_every_python(source, made, taken):
    assert contract_code.made_and_taken(source) == (set(made.split()), set(taken.split()))


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
        ("#### Too deep", "heading 'Too deep' leaves out a level"),
        ("# Second title", "needs one title"),
        ("# Title\n\n## Checked on this page", "needs one title"),
        ("**Predict:** and nothing?\n", "needs a cell with hide-output below it"),
        ("Labelled grey neighbours.", "'Labelled' is British spelling; 'grey' is British spelling"),
        ("{term}`an optimised <MAML>`", "'optimised' is British"),
        (r"$\hat \theta$", r"the symbol \hat \theta is not in"),
        ("Let $$ q^2 $$ be", "the symbol q is not in"),
        ("a number $z$", "the symbol z is not in"),
        ("With MAML and {term}`MAML`", "the first use of 'MAML' does not link"),
        ("Inner loops", "the first use of 'inner loop' does not link"),
    ],
)
def test_a_text_cell_that_breaks_a_rule_is_named(text, sentence):
    assert sentence in broken(chapter(new_markdown_cell(text)))


@pytest.mark.parametrize(
    "text",
    [
        "`colour`, `model.normalise()`, [a word](https://a.b/colour) and {cite:p}`grey2000colour`",
        "It is otherwise a promise, noise, exercise, precise, analyses, modeled, a parameter.",
        r"$\operatorname{Var} [\bar{a}] = \sqrt{\sin \theta_{\text{in}}}$ and `$q$`",
        "{term}`inner loops <inner loop>`, inner-loop, {term}`MAML`, and MAML; a way.",
        "### A heading of MAML",
    ],
)
def test_a_text_cell_that_breaks_no_rule_passes(text):
    assert broken(chapter(new_markdown_cell(text))) == ""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("# A chapter", "A chapter", "needs one title"),
        ("about 20 s", "about some s", "the title cell needs"),
        ("02_a_chapter.ipynb", "01_another.ipynb", "the title cell needs"),
        ("## Pitfalls", "## The pitfalls", "sections must be In one minute; ...; Pitfalls"),
        ("## In one minute\n", "## More\n\n## In one minute\n", "sections must be"),
        ("[Open an issue about this page]", "[Open]", "the summary needs '[Open an issue"),
        ("## A finding", "## A finding" + " word" * 1500, " words, 1000 to 2400 are"),
        ("nb.check_one(my_one)", "nb.check_two(my_one)", "must call the same check"),
        ("nb.check_one(my_one)", "my_one", "exercise 'ex-one' calls no check_"),
        ("{solution-start} ex-one", "{solution-start} ex-1", "exercise 'ex-one' has no solution"),
        ("{solution-start} ex-one", "{solution-start} ex-1", "solution 'ex-1' belongs to no"),
        ("Open-ended. What", "What", "exercise 'ex-two' has no solution"),
    ],
)
def test_a_chapter_with_a_part_missing_is_named(old, new, sentence):
    assert sentence in replaced(old, new)


def test_an_open_exercise_may_have_a_check_and_then_has_a_solution_that_passes_it():
    assert replaced("Do it.", "Open-ended. Do it.") == ""
    notebook = chapter()
    cell_with(notebook, "Do it.").source += " Open-ended."
    cell_with(notebook, "check_one(my_one)").source = "check_two(my_one)"
    assert "exercise 'ex-one' and its solution must call the same check" in broken(notebook)


def without_alt(notebook):
    del cell_with(notebook, "plots.curve").metadata["mystnb"]["image"]


def with_british_caption(notebook):
    cell_with(notebook, "plots.curve").metadata["mystnb"]["figure"]["caption"] = "A grey dot."


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


def untagged_solution(notebook):
    cell_with(notebook, "check_one(one)").metadata["tags"] = []


def few_cells(notebook):
    notebook.cells = [c for c in notebook.cells if not c.source.startswith("print(")]


def no_exercise(notebook):
    text = cell_with(notebook, "{exercise-start}")
    text.source = "## Exercises"
    cell_with(notebook, "{solution-start}").source = ""
    cell_with(notebook, "{exercise}").source = ""


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (without_alt, "alternative text"),
        (with_british_caption, "'grey' is British"),
        (with_output, "outputs or execution counts"),
        (other_first_cell, "first code cell"),
        (other_kernel, "kernel"),
        (old_format, "format 4.4"),
        (twin_ids, "ids of their own"),
        (skipping_tag, "nbval-skip"),
        (untagged_solution, "solution 'ex-one' lacks the tag solution"),
        (few_cells, "9 code cells, 10 to 22 are allowed"),
        (no_exercise, "has no exercise"),
    ],
)
def test_a_notebook_that_breaks_a_rule_is_named(plant, sentence):
    notebook = chapter()
    assert broken(notebook) == ""
    kept = {"mystnb": dict(FIGURE), "tags": ["hide-input"]}
    cell_with(notebook, "plots.curve").metadata = nbformat.from_dict(kept)
    plant(notebook)
    assert sentence in broken(notebook)


def test_definitions_are_those_that_a_chapter_teaches_with():
    extra = new_code_cell("class A:\n    def b(self):\n        pass\n\n\ndef c():\n    pass")
    assert contract_code.definitions(chapter(extra)) == {"A", "c", "step"}


def test_symbols_of_a_row_for_one_chapter_are_for_no_other():
    row = r"| $h_\alpha,\ \bar{w}$ | half-width, in chapters 2 and 10 | `h` |"
    for chapter_, found in (("2", True), ("10", True), ("1", False), ("A1", False)):
        right = {"h", r"\alpha", r"\bar w"} if found else set()
        assert contract_text.notation(row, chapter_) == right


def test_a_letter_has_one_meaning_in_the_book():
    used = {}
    for path in NOTEBOOKS:
        number = path.stem.partition("_")[0].lstrip("0")
        prose = contract_text.page_prose(nbformat.read(path, as_version=4))
        used[number] = contract_text.symbols(prose)
    assert list(contract_symbols.collisions(AROUND.notation, used)) == []


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("| $x$ | another | |", "x stands in 2 rows: a letter has one meaning"),
        ("| $z$ | unused | |", "z has a row and is not used in any chapter"),
        ("| $u,\\ y$ | in chapters 1 and 2 | |", "u has a row and is not used in chapters 2"),
        ("| $\\hat x$ | another symbol, in chapter 2 | |", ""),
        ("\n".join(f"| ${c}$ | a | |" for c in "abcdefghijklmnopqrst"), "21 rows are for all"),
    ],
)
def test_a_letter_with_two_meanings_or_none_is_named(row, sentence):
    used = {"1": {"x", "u", "y"}, "2": {"x", "y", r"\hat x"}}
    found = list(contract_symbols.collisions(f"| $x$ | an input | |\n{row}", used))
    assert sentence in "; ".join(found) and bool(found) == bool(sentence)


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
