"""The tools of ``make test`` and ``make book`` notice what they are there to notice."""

import json
import re

import check_book
import nbformat
import notebook_times
import pytest
import run_notebook
from nbformat.v4 import new_code_cell, new_notebook, new_output

ALT = "A point that moves towards the minimum."
PAGE = (
    '<h1 id="title">Title</h1><a href="intro.html#top">up</a><a href="https://a.b">out</a>'
    f'<figure id="fig-path"><img src="_images/a.png" alt="{ALT}"></figure>'
    '<script src="_static/a.js"></script>'
)


@pytest.fixture
def built(tmp_path):
    """A book of two pages, one of them a notebook with a figure, built without a fault."""
    html, book, executed = (tmp_path / name for name in ("html", "book", "executed"))
    for folder in (html / "_images", html / "_static", book, executed):
        folder.mkdir(parents=True)
    (book / "_toc.yml").write_text("root: intro\nparts: [{chapters: [{file: '01'}]}]")
    (book / "01.ipynb").touch()
    (html / "_images/a.png").touch()
    (html / "_static/a.js").touch()
    (html / "intro.html").write_text('<p id="top"><a href="01.html#title">01</a></p>')
    (html / "01.html").write_text(PAGE)
    picture = new_output("display_data", {"image/png": ""})
    mystnb = {"figure": {"name": "fig-path", "caption": "Steps."}, "image": {"alt": ALT}}
    cells = [
        new_code_cell("x = 1", execution_count=1),
        new_code_cell(
            "plots.path()", execution_count=2, outputs=[picture], metadata={"mystnb": mystnb}
        ),
    ]
    nbformat.write(new_notebook(cells=cells), executed / "01.ipynb")
    record(executed, ("a sum", "module"), ("a sum", "closed form"))
    return html, book, executed


def record(executed, *made):
    """Write down that these comparisons, name and kind, were made."""
    lines = (json.dumps({"name": name, "against": kind}) + "\n" for name, kind in made)
    (executed / "01.compares.jsonl").write_text("".join(lines))


def edit(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, path)


def test_a_faultless_book_passes(built):
    assert check_book.check(*built) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("#top", "#gone", "01: broken link: intro.html#gone"),
        ("intro.html#top", "gone.html", "01: broken link: gone.html"),
        ("_images/a.png", "_images/b.png", "01: missing file: _images/b.png"),
        ("_static/a.js", "https://cdn.net/a.js", "01: needs the network: https://cdn.net/a.js"),
        (ALT, "", "01: image without alternative text: _images/a.png"),
        (ALT, "Another.", "01: the figure of cell 2 is not on the page with its alternative text"),
        ("fig-path", "fig-x", "01: the figure of cell 2 is not on the page with its name"),
        ("<h1", '<div class="output stderr">x</div><h1', "01: shows a warning (output on stderr)"),
        ("<h1", '<p class="system-message">x</p><h1', "01: shows a message of the book's builder"),
    ],
)
def test_a_fault_of_a_page_is_named(built, old, new, sentence):
    page = built[0] / "01.html"
    page.write_text(page.read_text().replace(old, new))
    assert sentence in check_book.check(*built)


def test_a_figure_that_moves_has_its_text_in_a_label(built):
    page = built[0] / "01.html"
    moving = f'<svg role="img" aria-label="{ALT}"></svg>'
    page.write_text(re.sub("<img [^>]*>", moving, page.read_text()))
    assert check_book.check(*built) == []
    page.write_text(page.read_text().replace(ALT, ""))
    assert "01: image without alternative text: " in check_book.check(*built)


def test_a_missing_page_and_a_notebook_not_executed_are_named(built):
    html, _, executed = built
    (executed / "01.ipynb").unlink()
    assert "01: not executed" in check_book.check(*built)
    (html / "01.html").unlink()
    assert "01: page missing" in check_book.check(*built)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda cells: cells[0].update(execution_count=3), "01: cells did not all run in order"),
        (lambda cells: cells[1].update(outputs=[]), "01: cell 2 drew no figure"),
        (lambda cells: cells[1].update(metadata={}), "01: cell 2 draws without figure metadata"),
        (
            lambda cells: cells[0].outputs.append(new_output("stream", name="stderr", text="x")),
            "01: cell 1 printed to stderr",
        ),
        (lambda cells: cells[0].outputs.append(new_output("error")), "01: cell 1 failed"),
    ],
)
def test_a_fault_of_an_executed_notebook_is_named(built, change, sentence):
    edit(built[2] / "01.ipynb", change)
    assert any(found.startswith(sentence) for found in check_book.check(*built))


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ([("a", "closed form")], "01: compares nothing with its module"),
        ([("a", "module")], "01: compares nothing with a closed form or a finite difference"),
        ([("a", "module"), ("b", "engine")], "01: compares nothing with a closed form or a finite"),
        ([], "01: compares nothing with its module"),
    ],
)
def test_kinds_of_comparison_that_were_not_made_are_named(built, made, sentence):
    record(built[2], *made)
    assert any(found.startswith(sentence) for found in check_book.check(*built))


def test_a_notebook_without_a_record_of_comparisons_is_named(built):
    (built[2] / "01.compares.jsonl").unlink()
    assert "01: compares nothing with its module" in check_book.check(*built)


def test_a_comparison_that_never_ran_is_named(built):
    source = (
        "if x:\n    nb.compare('+a', 1, 1)\nfor k in ():\n    nb.compare(f'{k} step(s)', k, k)\n"
        "nb.compare(f'higher, {k} step(s)', 1, 1)\nnb.compare(name, 1, 1)"
    )
    edit(built[2] / "01.ipynb", lambda cells: cells[0].update(source=source))
    made = [("higher, 3 step(s)", "module"), ("any name", "finite difference")]
    record(built[2], *made)
    found = ["01: comparison '+a' was not made", "01: comparison f'{k} step(s)' was not made"]
    assert check_book.check(*built) == found
    record(built[2], *made, ("+a", "module"), ("0 step(s)", "module"))
    assert check_book.check(*built) == []


def test_a_planned_error_is_no_fault(built):
    def plan(cells):
        cells[0].source = "nb.compare('wrong', 1, 2)"
        cells[0].outputs.append(new_output("error"))
        cells[0].metadata["tags"] = ["raises-exception"]

    edit(built[2] / "01.ipynb", plan)
    assert check_book.check(*built) == []


def test_notebook_times_are_summed_and_what_did_not_run_is_told(tmp_path, capsys):
    cases = [("book.01.ipynb", 50), ("book/02.ipynb", 600), ("book/02.ipynb", 31), ("tests.x", 99)]
    lines = "".join(f'<testcase classname="{name}" time="{t}"/>' for name, t in cases)
    (tmp_path / "junit.xml").write_text(f"<testsuite>{lines}</testsuite>")
    for name in ("01", "02", "03"):
        (tmp_path / f"{name}.ipynb").touch()
    assert notebook_times.seconds_per_notebook(tmp_path / "junit.xml") == {"01": 50, "02": 631}
    assert notebook_times.main(tmp_path / "junit.xml", tmp_path) == 1
    table = capsys.readouterr().out.splitlines()
    assert table == ["  50.0 s  01", " 631.0 s  02", "   did not run  03"]


@pytest.mark.slow
def test_a_failing_notebook_leaves_no_executed_copy(nbclient, tmp_path):
    source, result = tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("x = 6 * 7\nassert x == 43")]), source)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="AssertionError"):
        run_notebook.run(source, result)
    assert not result.exists()
    nbformat.write(new_notebook(cells=[new_code_cell("x = 6 * 7\nx")]), source)
    run_notebook.run(source, result)
    (cell,) = nbformat.read(result, as_version=4).cells
    assert cell.outputs[0].data["text/plain"] == "42" and cell.execution_count == 1


@pytest.mark.slow
def test_the_comparisons_of_the_last_run_are_beside_the_executed_copy(nbclient, tmp_path):
    source, result = tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb"
    text = """import json, os
with open(os.environ["METALEARN_TUT_COMPARES"], "a") as file:
    print(json.dumps({"name": "a", "against": "module"}), file=file)"""
    nbformat.write(new_notebook(cells=[new_code_cell(text)]), source)
    for _ in range(2):
        run_notebook.run(source, result)
    (line,) = run_notebook.compares_file(result).read_text().splitlines()
    assert json.loads(line) == {"name": "a", "against": "module"}
