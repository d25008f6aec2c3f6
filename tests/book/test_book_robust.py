"""What chapters say holds for trainings with another seed; ``make robust`` tries many.

One other seed is tried as the chapters run on Colab: ``test_book_colab.py``.
"""

import os

import contract
import nbformat
import pytest
import robust
from nbformat.v4 import new_code_cell, new_notebook

CHAPTERS = robust.chapters(contract.BOOK)


def test_every_chapter_trains_with_the_seed_that_it_is_given():
    assert [p.stem[:2] for p in CHAPTERS] == [f"{n:02}" for n in range(1, 9)]


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A chapter that fails for seed 2 with two threads."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    source = "from metalearn_tut import nb\nimport torch\nseed = nb.start()\n"
    source += "assert seed < 2 or torch.get_num_threads() < 2, 'a wrong sentence'"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), tmp_path / "01_one.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "A1_other.ipynb")
    return tmp_path


def test_a_chapter_whose_sentence_is_wrong_for_a_seed_is_named(book, capsys):
    (path,) = robust.chapters(book)
    found = list(robust.broken([path], (1, 2), (1, 2), book / "out"))
    assert len(found) == 1 and found[0].startswith("01_one, seed 2, 2 threads: ")
    assert "a wrong sentence" in found[0]
    printed = capsys.readouterr().out
    assert printed.count(": holds") == 3 and "[4/4] 01_one, seed 2, 2 threads: FAILS" in printed
    assert len(list(robust.broken([path], (1, 2), (1, 2), book / "out"))) == 1
    printed = capsys.readouterr().out
    assert printed.count("done before") == 3 and printed.count("FAILS") == 1


def test_unknown_chapters_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["robust.py", "17"])
    with pytest.raises(SystemExit, match="no chapter begins with 17"):
        robust.main()
