"""The form of a chapter: each of its rules can fail."""

import pytest
from contract_cases import broken, cell_with, changed, chapter
from nbformat.v4 import new_code_cell, new_markdown_cell


@pytest.mark.parametrize(
    ("text", "source", "tags", "sentence"),
    [
        ("plots.curve", None, (), "the code of the first figure must be folded"),
        ("## In one minute", "## One minute", (), "sections must be In one minute; ...; Pitfalls"),
        ("## Pitfalls", "## Traps", (), "sections must be"),
        ("def step", "x = nb.step()", (), "the idea must be plain PyTorch, and takes nb"),
        ("def step", "def f():\n    return plots.x", (), "plain PyTorch, and takes plots"),
        ("def step", None, ("hide-input",), "the idea must be shown"),
        ("def step", "def f():\n" + "    x = 1\n" * 40, (), "code cell 4 has 42 lines"),
        ("torch.ones", None, (), "needs a cell with hide-output below it"),
        ("torch.ones", "assert torch.ones(2)[0] == 1", (), "code cell 5 asserts where a reader"),
        ("print(1)", "nb.compare('d', 1, 1)", (), "3 comparisons are shown, 2 are allowed"),
        ("nb.compare('c'", None, (), "the last cell must have the id 'checked' and be folded"),
        ("about 20 s", "# A\n\nCPU", (), "the title cell needs"),
        ("## Summary", "## Summary\n\nShort.", (), "the summary needs '**Further reading.**'"),
        ("## A finding", "## A finding", (), "words, 1000 to 2400 are allowed"),
        ("Three", "So.", (), "1 exercises, 3 are allowed"),
    ],
)
def test_a_cell_that_breaks_the_form_is_named(text, source, tags, sentence):
    assert sentence in changed(text, source, *tags)


def test_comparisons_that_are_folded_are_not_counted():
    assert changed("print(1)", "nb.compare('d', 1, 1)", "hide-output") == ""
    assert changed("torch.ones", "assert torch.ones(2)[0] == 1", "hide-output", "hide-input") == ""


def test_what_is_missing_is_named():
    notebook = chapter()
    cell_with(notebook, "def step").id = "another"
    assert "needs a code cell with the id 'idea'" in broken(notebook)
    notebook = chapter()
    notebook.cells.remove(cell_with(notebook, "plots.curve"))
    assert "needs a figure before the first section" in broken(notebook)
    notebook = chapter()
    notebook.cells.append(new_markdown_cell("More."))
    assert "the last cell must have the id 'checked'" in broken(notebook)


def test_more_than_the_caps_is_named():
    notebook = chapter()
    at = notebook.cells.index(cell_with(notebook, "**Predict:**"))
    pairs = [notebook.cells[at], notebook.cells[at + 1]]
    for n in range(4):
        pair = [type(cell)(cell) for cell in pairs]
        for cell in pair:
            cell["id"] = f"{cell.id}-{n}"
        notebook.cells[at:at] = pair
    assert "5 predictions, 4 are allowed" in broken(notebook)
    notebook = chapter()
    notebook.cells[10:10] = [new_code_cell("print(2)") for _ in range(11)]
    assert "23 code cells, 10 to 22 are allowed" in broken(notebook)
