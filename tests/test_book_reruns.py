"""Chapters in the hands of readers: cells are run again and out of order, a data set is missing."""

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


def changed_when_run_again(notebook: nbformat.NotebookNode, folder: Path) -> set[str]:
    """Run all cells from first to last, then from last to first: which show something else?

    On the way back a cell finds what all others have left behind, those below it twice.
    """
    there = code_cells(notebook)
    back = [new_code_cell(cell.source) for cell in there]
    NotebookClient(
        new_notebook(cells=[*there, *reversed(back)]),
        timeout=SECONDS_PER_CELL,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return {a.id for a, b in zip(there, back, strict=True) if shown(a) != shown(b)}


def shown(cell: nbformat.NotebookNode) -> list:
    """What a cell printed, up to the seconds that something took, and what it drew."""
    streams = [out.text for out in cell.outputs if out.output_type == "stream"]
    text = re.sub(r"\d+(\.\d+)? (ms|s)\b", "(time)", "".join(streams))
    return [text, *(dict(out.data) for out in cell.outputs if "data" in out)]


@slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_again_in_another_order_show_the_same(path):
    changed = changed_when_run_again(nbformat.read(path, as_version=4), path.parent)
    assert changed == set()


def test_cells_that_show_something_else_are_noticed(tmp_path):
    sources = {
        "printed-time": "import random\nx, y = 0, [1]\nprint(f'{random.random():.3f} s')",
        "counts": "x += 1\nprint(x)",
        "shows": "y",  # changed further down
        "constant": "print(y is y)",
        "adds": "y.append(2)",
    }
    cells = [new_code_cell(source, id=name) for name, source in sources.items()]
    changed = changed_when_run_again(new_notebook(cells=cells), tmp_path)
    assert changed == {"counts", "shows"}


def test_without_omniglot_chapter_1_says_so_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METALEARN_TUT_DATA", str(tmp_path))
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path))
    book_tools.run("01_few_shot_tasks", "omniglot", five_way={"ways": 5, "shots": 1, "queries": 5})
    out = capsys.readouterr().out
    assert out == "Omniglot is not here: metalearn-tut data omniglot --download\n"
