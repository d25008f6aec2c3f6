"""What a shipped learner is reported on has chosen nothing: no checkpoint, no weight."""

import json
from itertools import combinations
from pathlib import Path

import pretrain
import pytest

from metalearn_tut import pretrained
from metalearn_tut.runs import building as runs
from metalearn_tut.tasks.omniglot.source import VALIDATION_ALPHABETS
from metalearn_tut.training import checkpoint

ROOT = Path(__file__).parents[2]
OMNIGLOT = "omniglot_5way_1shot"


def recorded(name):
    return json.loads((ROOT / "results" / "pretrained" / f"{name}.json").read_text())


def training_of(name):
    return checkpoint.read(pretrained.path(name))[1]["run"]["training"]


def with_data(call):
    try:
        return call()
    except FileNotFoundError as error:
        pytest.skip(f"needs Omniglot: {error}")


def test_the_alphabets_that_choose_and_those_that_are_reported_are_all_and_apart():
    assert {*pretrain.CHOOSING, *pretrain.REPORTED} == {*VALIDATION_ALPHABETS}
    assert not {*pretrain.CHOOSING} & {*pretrain.REPORTED}
    assert len(pretrain.CHOOSING) == 2 and len(pretrain.REPORTED) == 3


def test_the_shipped_omniglot_learner_says_who_chose_it():
    """The checkpoint itself names the tasks of its validation."""
    said = training_of(OMNIGLOT)["validation"]
    assert all(name in said for name in pretrain.CHOOSING)
    assert not any(name in said for name in pretrain.REPORTED)


def test_its_result_is_of_the_others():
    result = recorded(OMNIGLOT)
    assert tuple(result["config"]["groups"]) == pretrain.REPORTED
    assert tuple(result["config"]["chosen_on"]) == pretrain.CHOOSING
    for norm in ("support", "batch"):
        said = result["values"][norm]["sampler"]
        assert all(name in said for name in pretrain.REPORTED)
        assert not any(name in said for name in pretrain.CHOOSING)


def test_no_alphabet_trains_chooses_and_is_reported():
    train = with_data(lambda: runs.build_source(pretrain.OMNIGLOT["data"], "train"))
    parts = [set(train.groups)]
    parts += [
        set(pretrain.alphabets(names).groups) for names in (pretrain.CHOOSING, pretrain.REPORTED)
    ]
    for first, second in combinations(parts, 2):
        assert not first & second
    assert set(pretrain.reported(OMNIGLOT).groups) == set(pretrain.REPORTED)
    assert [pretrain.alphabets(n).n_classes for n in (pretrain.CHOOSING, pretrain.REPORTED)] == [
        59,
        104,
    ]


@pytest.mark.parametrize("name", pretrain.GLYPHS)
def test_the_glyph_learners_are_chosen_on_scripts_that_are_not_reported(name):
    assert "glyphs (validation)" in training_of(name)["validation"]
    result = recorded(name)
    assert result["config"]["split"] == "test"
    assert "glyphs (test)" in result["values"]["support"]["sampler"]
    parts = [set(runs.build_source({"name": "glyphs"}, s).groups) for s in ("train", "validation")]
    parts.append(set(pretrain.reported(name).groups))
    for first, second in combinations(parts, 2):
        assert not first & second


@pytest.mark.parametrize("name", pretrain.LEARNERS)
def test_what_is_shipped_is_what_the_tool_trains(name):
    """The configuration in the file, that of the result, and for Omniglot the tool's."""
    config = runs.load_config(pretrained.path(name))
    assert recorded(name)["config"]["trained"] == config
    if name == OMNIGLOT:
        assert config == pretrain.OMNIGLOT
        assert {n: training_of(name)[n] for n in ("steps", "outer_lr", "validate_every")} == {
            "steps": 6500,
            "outer_lr": 0.002,
            "validate_every": 1625,
        }
