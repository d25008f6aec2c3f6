"""No study is judged by test tasks that anybody has looked at before."""

import json
from itertools import combinations
from pathlib import Path

import claims_seeds
import pytest

from metalearn_tut import claims
from metalearn_tut.claims import seeds

ROOT = Path(__file__).parents[2]
USED = seeds.used(ROOT / "results" / "claims" / "test_seeds.json")


def test_seeds_are_the_same_everywhere_and_apart_by_purpose_name_and_number():
    assert seeds.fresh("test", "hetrom", 0) == 2696895519
    found = {
        seeds.fresh(purpose, name, seed)
        for purpose in seeds.PURPOSES
        for name in ("hetrom", "anp")
        for seed in range(50)
    }
    assert len(found) == 4 * 2 * 50
    with pytest.raises(ValueError, match="purpose must be one of"):
        seeds.fresh("tests", "hetrom", 0)


def test_the_seeds_of_a_configuration_are_those_of_its_test_tasks():
    config = {"tests": {"a": {"split": "test", "seed": 5}, "b": {"split": "validation", "seed": 6}}}
    assert list(seeds.seeds_of_tests([config, {"split": "train", "seed": 7}])) == [5]


@pytest.mark.parametrize("name", claims.STUDIES)
def test_all_test_seeds_of_a_study_are_listed(name):
    assert USED[name] == claims_seeds.hashes(claims.load(name)), (
        "run tools/claims_seeds.py and commit results/claims/test_seeds.json"
    )


def test_no_study_uses_a_test_seed_of_another_or_of_the_first_round():
    assert USED.keys() == {"first round", *claims.STUDIES}
    for one, other in combinations(USED, 2):
        assert not set(USED[one]) & set(USED[other]), (one, other)
    assert seeds.hashed(1) in USED["first round"] and seeds.hashed(2) in USED["first round"]


@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_job_but_of_costs_is_tested_and_pilots_never_are(name):
    study = claims.load(name)
    assert not any([*seeds.seeds_of_tests(job.config)] for job in study.pilots())
    by_seed = {}
    for job in study.jobs(False):
        found = set(seeds.seeds_of_tests(job.config))
        assert len(found) <= 1, job.name
        by_seed.setdefault(job.name.rpartition("-")[2], set()).update(found)
    assert all(len(found) <= 1 for found in by_seed.values())  # arms of a seed share their tasks


def test_the_list_is_plain_json():
    text = (ROOT / "results" / "claims" / "test_seeds.json").read_text("utf-8")
    assert text == claims_seeds.text(json.loads(text))


@pytest.mark.parametrize("name", claims.STUDIES)
def test_a_quick_run_shows_nothing_of_what_the_study_is_tested_on(name):
    study = claims.load(name)
    own, quick = (
        {seed for job in study.jobs(quick) for seed in seeds.seeds_of_tests(job.config)}
        for quick in (False, True)
    )
    assert not own & quick
