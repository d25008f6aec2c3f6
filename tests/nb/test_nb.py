"""What every chapter calls: comparisons, checks, and the advice below a cell run too early."""

import json
import math

import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from metalearn_tut import nb
from metalearn_tut.nb import _order


@pytest.mark.parametrize(
    ("mine", "reference"),
    [
        (1, 1.0),
        (torch.tensor([1, 2]), np.array([1.0, 2.0])),
        ([torch.ones(2), torch.zeros(2)], torch.tensor([[1.0, 1.0], [0.0, 0.0]])),
        ({"w": {"a": 1}}, {"w": {"a": 1}}),
        (torch.tensor(2.0, requires_grad=True), 2),
        (1 + 1e-11, 1),
        (1e-13, 0),
    ],
)
def test_what_is_equal_passes(mine, reference, capsys):
    nb.compare("both", mine, reference)
    assert capsys.readouterr().out.startswith("ok  both: ")


@pytest.mark.parametrize(
    ("mine", "reference", "sentence"),
    [
        (1 + 1e-9, 1, r"both: differs by 1.0e-09 at most \(allowed 1e-12 \+ 1e-10·\|ref\|\)"),
        (1e-11, 0, "both: differs by 1.0e-11"),
        ([1, 1], [1, 1, 1], r"both: shapes differ, \(2,\) and \(3,\)"),
        (torch.ones(1, 2), torch.ones(2, 1), "both: shapes differ"),
        (math.nan, math.nan, "both: not finite"),
        (math.inf, 1, "both: not finite"),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "both: differs by 1.0e"),
        ({"a": 1}, {"b": 1}, r"both: keys differ, \['a'\] and \['b'\]"),
        ({"a": [1]}, {"a": [1, 2]}, r"both\['a'\]: shapes differ"),
    ],
)
def test_what_differs_fails(mine, reference, sentence):
    with pytest.raises(AssertionError, match=sentence):
        nb.compare("both", mine, reference)


def test_the_tolerance_is_relative_to_the_reference():
    nb.compare("small", 1000.5, 1000, rtol=1e-3)
    with pytest.raises(AssertionError):
        nb.compare("large", 1, 1.5, rtol=0.3, atol=0)
    nb.compare("large", 1.5, 1, rtol=0.6, atol=0)


def test_comparisons_that_pass_are_recorded_where_one_asks_for_it(tmp_path, monkeypatch):
    nb.compare("before", 1, 1)
    monkeypatch.setenv("METALEARN_TUT_COMPARES", str(tmp_path / "record"))
    nb.compare("a", 1, 1)
    nb.compare("b", 1, 1, against="closed form")
    with pytest.raises(AssertionError):
        nb.compare("c", 1, 2)
    lines = (tmp_path / "record").read_text().splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == [
        ("a", "module"),
        ("b", "closed form"),
    ]


def test_a_check_says_how_an_answer_went(capsys):
    def unfinished():
        raise NotImplementedError

    nb.check("1.1", unfinished)
    nb.check("1.2", lambda: nb.close([1, 2], [1, 2 + 1e-7], "sums"))
    assert capsys.readouterr().out == "1.1: not attempted yet\n1.2: correct\n"
    for wrong, why in (
        (1.1, "off by 0.1, allowed"),
        (math.nan, "off by nan"),
        ([1], "expected sh"),
    ):
        with pytest.raises(AssertionError, match=f"the sum: {why}"):
            nb.check("1.3", lambda wrong=wrong: nb.close(wrong, 1, "the sum"))


@pytest.mark.slow
def test_a_cell_that_is_run_too_early_fails_and_says_what_to_run_first(nbclient):
    sources = (
        "from metalearn_tut import nb",
        "a = 1\nprint(a)",
        "def f():\n    return waves",
        "f()",
    )
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="NameError"):
        nbclient.NotebookClient(notebook, extra_arguments=["--log-level=ERROR"]).execute()
    error, advice = notebook.cells[-1].outputs
    assert (error.output_type, error.ename) == ("error", "NameError")
    assert "waves" in "".join(error.traceback)
    assert advice.name == "stdout"
    assert advice.text.startswith(
        "'waves' has no value yet. If a cell above makes it, run the cells"
    )


def error_of(source: str, module: str = "__main__") -> BaseException:
    """What a cell of a notebook raises, or a function of a module."""
    with pytest.raises(Exception) as raised:
        exec(source, {"__name__": module})
    return raised.value


def test_advice_is_for_names_that_the_notebook_lacks():
    assert "'waves' has no value yet" in _order.advice(error_of("print(waves)"))
    assert "'waves'" in _order.advice(error_of("f = lambda: waves\nf()"))


@pytest.mark.parametrize(
    "error",
    [
        None,
        error_of("waves = 1 / 0"),
        error_of("def f():\n    print(a)\n    a = 1\nf()"),  # no cell mends this
        error_of("raise NameError('waves')"),
        error_of("print(waves)", module="some.module"),
        error_of("().waves"),  # has a name, too
    ],
)
def test_other_errors_get_no_advice(error):
    assert _order.advice(error) is None


def test_a_chapter_starts_with_one_thread_and_seed_0_unless_told_otherwise(monkeypatch):
    threads = torch.get_num_threads()
    try:
        monkeypatch.delenv("METALEARN_TUT_SEED", raising=False)
        monkeypatch.delenv("METALEARN_TUT_THREADS", raising=False)
        assert nb.start() == 0 and torch.get_num_threads() == 1
        monkeypatch.setenv("METALEARN_TUT_SEED", "4")
        monkeypatch.setenv("METALEARN_TUT_THREADS", "2")
        assert nb.start() == 4 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
