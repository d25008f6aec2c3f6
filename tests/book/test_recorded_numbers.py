"""A number in a chapter's text that was recorded is what the record has now."""

import json
from pathlib import Path

import nbformat
import pytest
import recorded_numbers
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOKS = sorted((Path(__file__).parents[2] / "book").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_chapters_have_the_numbers_of_the_results(path):
    stale = recorded_numbers.refresh(nbformat.read(path, as_version=4))
    assert stale == [], "run tools/recorded_numbers.py"


@pytest.fixture
def results(tmp_path):
    (tmp_path / "a").mkdir()
    values = {"rows": [{"mean": 0.66225}, {"mean": 0.5}], "bytes": 116660}
    (tmp_path / "a" / "b.json").write_text(json.dumps({"values": values}))
    return tmp_path


MEAN, BYTES = "a/b.json values.rows.0.mean .3f", "a/b.json values.bytes ,d"


def test_text_captions_and_alternative_texts_are_kept_up_to_date(results):
    text = new_markdown_cell("It is 0.61, not 0.611 or 10.61, and 0.61.")
    text.metadata["recorded"] = {"0.61": MEAN}
    mystnb = {"figure": {"caption": "A file of 9 bytes."}, "image": {"alt": "9 bytes, 19 or 9.5."}}
    figure = new_code_cell("9", metadata={"mystnb": mystnb, "recorded": {"9": BYTES}})
    notebook = new_notebook(cells=[text, figure])
    stale = recorded_numbers.refresh(notebook, results)
    assert stale[0].endswith("has 0.61, and a/b.json values.rows.0.mean .3f is 0.662")
    assert len(stale) == 2
    assert text.source == "It is 0.662, not 0.611 or 10.61, and 0.662."
    assert figure.source == "9"  # code is not text
    assert figure.metadata.mystnb.figure.caption == "A file of 116,660 bytes."
    assert figure.metadata.mystnb.image.alt == "116,660 bytes, 19 or 9.5."
    assert text.metadata.recorded == {"0.662": MEAN}
    assert recorded_numbers.refresh(notebook, results) == []


def test_a_number_that_is_nowhere_in_its_cell_is_refused(results):
    cell = new_markdown_cell("It is 0.6612.")
    cell.metadata["recorded"] = {"0.66": MEAN}
    with pytest.raises(ValueError, match=r"says that 0\.66 is recorded, and has it not"):
        recorded_numbers.refresh(new_notebook(cells=[cell]), results)


def test_a_result_that_is_not_there_is_an_error(results):
    for source in ("a/c.json values .3f", "a/b.json values.none .3f"):
        with pytest.raises((FileNotFoundError, KeyError)):
            recorded_numbers.read(source, results)
