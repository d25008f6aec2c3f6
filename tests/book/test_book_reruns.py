"""Chapters in the hands of readers: cells are run again and out of order.

That all chapters can be run so is tested where they run as on Colab (test_book_colab), on request.
"""

from nbformat.v4 import new_code_cell, new_notebook
from reruns import changed, there_and_back


def test_cells_that_show_something_else_are_noticed(nbclient, tmp_path):
    sources = {
        "printed-time": "import random\nx, y = 0, [1]\nprint(f'{random.random():.3f} s')",
        "counts": "x += 1\nprint(x)",
        "shows": "y",  # changed further down
        "constant": "print(y is y)",
        "adds": "y.append(2)",
    }
    cells = [new_code_cell(source, id=name) for name, source in sources.items()]
    both_ways = there_and_back(new_notebook(cells=cells))
    nbclient.NotebookClient(both_ways, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert changed(both_ways) == {"counts", "shows"}
