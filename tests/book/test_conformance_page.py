"""The page about the conformance suite says what is on record, and its function is right."""

import json
import re
from pathlib import Path

import conformance_page
import pytest
from conformance_cases import BY_NAME
from conformance_page import Results, cell, generated
from conformance_sides import SIDES

from metalearn_tut.conformance import CASES, judge

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "conformance.md").read_text("utf-8")
PARTS = generated()


def test_every_part_has_its_mark_in_the_page():
    assert re.findall(r"^% from results: (\w+)$", PAGE, re.MULTILINE) == list(PARTS)


def test_the_counts_are_those_of_the_results():
    for side, values in Results(ROOT).sides.items():
        row = next(
            r for r in PARTS["summary"].splitlines() if r.startswith(f"| {SIDES[side].title} |")
        )
        counts = [int(n) for n in re.findall(r"\| \**(\d+)\**(?= \|)", row.partition("|")[2])]
        kinds = [v["kind"] for v in values.values()]
        found = [kinds.count(k) for k in ("right", "refused", "wrong", "crash", "not offered")]
        assert counts[-5:] == found and sum(found) == len(CASES)


def test_every_case_is_in_the_folded_tables_and_every_wrong_one_in_the_open_one():
    results = Results(ROOT)
    wrong = {case for _, case in results.wrong()}
    for case in CASES:
        row = f"\n| {conformance_page.plain(case.name)} | "
        assert row in PARTS["rest"]
        assert (row in PARTS["telling"]) == (case.name in wrong)


def test_every_library_that_is_wrong_stands_among_the_silent_errors():
    for side, _ in Results(ROOT).wrong():
        assert SIDES[side].title in PARTS["silent"]


def test_every_adapter_is_linked_and_says_what_it_follows():
    for side in filter(lambda side: side.adapter, SIDES.values()):
        assert f"/{side.adapter}.py" in PARTS["rest"]
    assert "<http" not in PARTS["rest"]


def test_without_results_the_page_says_so(tmp_path):
    parts = generated(tmp_path)
    assert all("not measured yet" in parts[p] for p in ("answer", "summary", "telling", "silent"))


def test_other_results_make_another_page(tmp_path):
    folder = tmp_path / "results" / "conformance"
    folder.mkdir(parents=True)
    file = json.loads((ROOT / "results" / "conformance" / "higher.json").read_text("utf-8"))
    file["values"] = {case.name: {"kind": "right", "error": 1e-9} for case in CASES}
    file["values"]["layer norm"] = {"kind": "wrong", "error": 0.25}
    (folder / "higher.json").write_text(json.dumps(file))
    parts = generated(tmp_path)
    assert "silently wrong in 1 to 1 of them" in parts["answer"]
    assert "\n| layer norm | **25\u00a0%** |" in parts["telling"]
    assert "LSTM" not in parts["telling"]


@pytest.mark.parametrize(
    "verdict, shown",
    [
        (None, ""),
        ({"kind": "not offered"}, ""),
        ({"kind": "refused"}, "–"),
        ({"kind": "crash"}, "stops"),
        ({"kind": "right", "error": 2e-5}, "✓\u00a02e\u201105"),
        ({"kind": "wrong", "error": float("inf")}, "**NaN**"),
        ({"kind": "wrong", "error": 1e-10}, "**changed**"),
    ],
)
def test_a_verdict_in_a_narrow_column(verdict, shown):
    assert cell(verdict) == shown


def test_the_function_of_the_page_is_right():
    scope = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], scope)
    for name in ("three linear layers", "LSTM", "a layer that only the query uses"):
        assert judge(BY_NAME[name], scope["meta_gradient"]).kind == "right"
