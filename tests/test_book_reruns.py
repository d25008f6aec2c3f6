"""Chapters in the hands of readers: a cell is run twice, a data set is not there."""

import os
import re
from pathlib import Path

import book_tools
import nbformat
import pytest
from contract_code import code_cells
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from run_notebook import SECONDS_PER_CELL

NOTEBOOKS = sorted(book_tools.BOOK.glob("*.ipynb"))
slow = pytest.mark.skipif(
    os.environ.get("METALEARN_TUT_SLOW") != "1",
    reason="takes twice as long as the chapters: set METALEARN_TUT_SLOW=1",
)


def run_twice(notebook: nbformat.NotebookNode, folder: Path) -> list[tuple[str, list, list]]:
    """Run every code cell twice in a row on one kernel; id, first and second outputs of each."""
    pairs = [(cell, new_code_cell(cell.source)) for cell in code_cells(notebook)]
    doubled = new_notebook(cells=[cell for pair in pairs for cell in pair])
    NotebookClient(
        doubled,
        timeout=SECONDS_PER_CELL,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return [(first.id, shown(first), shown(second)) for first, second in pairs]


def shown(cell: nbformat.NotebookNode) -> list:
    """What a cell printed, up to the seconds that something took, and what it drew."""
    streams = [out.text for out in cell.outputs if out.output_type == "stream"]
    text = re.sub(r"\d+(\.\d+)? (ms|s)\b", "(time)", "".join(streams))
    return [text, *(dict(out.data) for out in cell.outputs if "data" in out)]


@slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_that_is_run_twice_shows_the_same(path):
    for name, first, second in run_twice(nbformat.read(path, as_version=4), path.parent):
        assert first == second, f"cell {name!r} of {path.name} shows something else when run again"


def notebook(*sources: str) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_code_cell(source) for source in sources])


def test_a_cell_that_shows_something_else_is_noticed(tmp_path):
    sources = ["x = 0\nprint('took 1.5 s')", "x += 1\nprint(x)", "print(2)", "x += 1\nx"]
    found = run_twice(notebook(*sources), tmp_path)
    assert [first == second for _, first, second in found] == [True, False, True, False]
    assert shown(new_code_cell(outputs=[])) == [""]


def test_without_omniglot_chapter_1_says_so_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METALEARN_TUT_DATA", str(tmp_path))
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path))
    book_tools.run("01_few_shot_tasks", "omniglot", five_way={"ways": 5, "shots": 1, "queries": 5})
    out = capsys.readouterr().out
    assert out == "Omniglot is not here: metalearn-tut data omniglot --download\n"
