"""Pilots choose by a rule: the best point of the grid on validation tasks."""

import json

import pytest

from metalearn_tut import claims
from metalearn_tut.claims import pilots
from metalearn_tut.claims.statistics import right_answers

GRID = {"low": 0.1, "high": 0.9}


@pytest.fixture
def kept(tmp_path):
    """A function that keeps pilots of the study ``toy``: right answers of ten, and their cost."""
    folder = tmp_path / "toy" / "pilots"
    folder.mkdir(parents=True)

    def keep(name, right, **more):
        values = {"validation": right_answers([right] * 3, 10), **more}
        record = {"values": {"values": values}}
        (folder / f"{name}.json").write_text(json.dumps(record))
        return tmp_path

    return keep


def test_the_best_point_is_chosen_once_all_are_there(kept):
    results = kept("arm-low", 4)
    assert pilots.chosen("toy", "arm", GRID, "low", results) == 0.1
    kept("other-high", 9)
    assert pilots.chosen("toy", "arm", GRID, "low", results) == 0.1
    kept("arm-high", 5)
    assert pilots.chosen("toy", "arm", GRID, "low", results) == 0.9
    assert pilots.found("toy", results)["arm-high"] == 0.5
    assert pilots.chosen("nobody", "arm", GRID, "high", results) == 0.9


def test_what_costs_too_much_is_chosen_only_if_everything_does(kept):
    kept("arm-low", 4, macs=0.4)
    results = kept("arm-high", 5, macs=0.6)
    assert pilots.chosen("toy", "arm", GRID, "low", results, most_macs=0.5) == 0.1
    assert pilots.chosen("toy", "arm", GRID, "low", results, most_macs=0.3) == 0.9


@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_arm_is_tried_as_often(name):
    tried = {}
    for job in claims.load(name).pilots():
        arm, _, point = job.name.rpartition("-")
        if point:
            tried.setdefault(arm.removesuffix("-1").removesuffix("-2"), []).append(point)
    counts = {len(points) for arm, points in tried.items() if arm}
    assert counts <= {3}
