"""What chapters show of the studies: the copy is what is on file, and is drawn by verdict."""

import json

import matplotlib.colors
import pytest
import recorded_studies

from metalearn_tut.claims.report import Report
from metalearn_tut.claims.statistics import paired, right_answers
from metalearn_tut.claims.study import Claim, Comparison, Study
from metalearn_tut.nb import forest, plots, studies

ARMS = {("a", "b"): "a − b", ("a", "c"): "a − c", ("b", "c"): "b − c"}


def test_the_copy_is_what_is_on_file():
    kept = json.loads(studies.FILE.read_text("utf-8"))
    assert kept == recorded_studies.everything(), "run tools/recorded_studies.py"


def test_a_row_has_the_effect_and_the_verdict():
    """Of records that are made up, by the statistics of the claims."""
    tests = {"a-0": [3, 4, 4], "b-0": [1, 2, 3], "a-1": [4, 4, 3], "b-1": [2, 2, 2]}
    values = {name: {"test": right_answers(right, 4)} for name, right in tests.items()}
    records = {name: {"values": {"values": value}} for name, value in values.items()}
    claim = Claim("A is better.", "a", "b", source="ours", ours="all")
    missing = Claim("A is better, again.", "a", "c", source="ours", ours="all")
    made = Study("made", "-", "-", (0, 1), (claim, missing), lambda quick: [], hours=0.0, pilot="-")
    found = recorded_studies.of(Report(made, records, total=6))
    right = paired([([3 / 4, 1, 1], [1 / 4, 2 / 4, 3 / 4]), ([1, 1, 3 / 4], [2 / 4] * 3)])
    assert (found["done"], found["total"]) == (4, 6)
    known, unknown = found["found"]
    assert known["trainings"] == pytest.approx(right.seeds, abs=1e-5)
    assert known["over_tasks"] == pytest.approx(right.over_tasks, abs=1e-5)
    assert known["verdict"] == claim.verdict(right)
    assert unknown == {"arm": "a", "rival": "c", "verdict": missing.verdict(None)}


def test_answers_that_are_not_those_to_the_test_tasks_are_named():
    values = {"a": {"own": right_answers([1, 2], 4), "alone": right_answers([2, 2], 4)}}
    records = {f"a-{seed}": {"values": {"values": values["a"]}} for seed in (0, 1)}
    two = Comparison("two answers of one arm", "a", "a", "own", "alone")
    made = Study("made", "-", "-", (0, 1), (), lambda quick: [], hours=0.0, pilot="-",
                 reported=(two,))  # fmt: skip
    (row,) = recorded_studies.of(Report(made, records, total=2))["found"]
    assert (row["arm"], row["rival"]) == ("a: own", "a: alone")
    assert row["trainings"] == [-0.125, -0.125] and row["verdict"] is None


def test_no_two_differences_of_a_study_have_one_name():
    for kept in json.loads(studies.FILE.read_text("utf-8")).values():
        pairs = [(one["arm"], one["rival"]) for one in kept["found"]]
        assert len(set(pairs)) == len(pairs)


def made_up(*verdicts):
    rows = [studies.Found(forest.Row([0.01, 0.02], 0.005), verdict) for verdict in verdicts]
    return studies.Study(2, 3, dict(zip(ARMS, rows, strict=False)))


def test_rows_have_the_colors_of_their_verdicts():
    with plots.figure() as ax:
        studies.draw(ax, made_up("holds", "does not hold", None), ARMS)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == list(ARMS.values())
        means = [line for line in ax.lines if list(line.get_xdata()) == [pytest.approx(0.015)]]
        assert [matplotlib.colors.to_hex(line.get_color()).upper() for line in means] == [
            plots.COLORS[i] for i in (2, 1, studies.REPORTED)
        ]


def test_what_is_not_known_is_not_drawn_and_a_study_that_has_nothing_says_how_far_it_is():
    with plots.figure() as ax:
        studies.draw(ax, made_up("holds"), ARMS)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a − b"]
    with plots.figure() as ax:
        studies.draw(ax, made_up(), ARMS)
        assert [words.get_text() for words in ax.texts] == ["running: 2 of 3 jobs"]
    assert str(studies.Study(3, 3, {})) == "finished: 3 of 3 jobs"


def test_every_study_can_be_read():
    for name, kept in json.loads(studies.FILE.read_text("utf-8")).items():
        shown = studies.study(name)
        assert shown.total == kept["total"] and 0 <= shown.done <= shown.total
        assert len(shown.found) == sum("trainings" in one for one in kept["found"])
