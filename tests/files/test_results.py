"""What results/ says of the learners that come along, and of what was timed."""

import json
from pathlib import Path

import benchmarks_page
import pretrain_emoji
import pytest

from metalearn_tut import evaluate, pretrained, tasks

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "results" / "pretrained").glob("*.json"))]
EMOJI = sorted(set(pretrain_emoji.RECIPES) - set(pretrain_emoji.COMPARED))


def test_every_shipped_learner_has_a_result_and_is_small():
    assert pretrained.available() == sorted(NAMES + EMOJI)
    assert all((ROOT / "results" / "emoji" / f"{name}.json").exists() for name in EMOJI)
    assert all(pretrained.path(name).stat().st_size < 500_000 for name in NAMES + EMOJI)
    assert pretrained.path("emoji_5way_1shot_small").stat().st_size < 20 * 1024


def test_what_was_timed_computes_the_same():
    results = benchmarks_page.Results(ROOT)
    assert results.values("meta_training")["gradient_difference"] < 1e-5
    inverses = json.loads((ROOT / "results" / "benchmarks" / "saliency.json").read_text())["values"]
    assert all(each["inverse_difference"] < 1e-6 for each in inverses.values())


@pytest.mark.slow(quick="small")
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("glyphs")])
def test_a_shipped_learner_does_what_its_result_says(name):
    values = json.loads((ROOT / "results" / "pretrained" / f"{name}.json").read_text())["values"]
    learner = pretrained.load(name)
    shots = 5 if name.endswith("5shot") else 1
    result = evaluate(learner, tasks.glyphs("test").sampler(5, shots, 15, seed=1), 60)
    assert learner.model.norm == "support"
    # Sixty tasks have an interval some three times as wide as the six hundred on record.
    assert abs(result.mean - values["support"]["mean"]) < 5 * values["support"]["half_width"]


@pytest.mark.slow(quick="small")
@pytest.mark.parametrize("name", EMOJI)
def test_a_shipped_learner_of_emoji_does_what_its_result_says(name):
    result = json.loads((ROOT / "results" / "emoji" / f"{name}.json").read_text())
    for row in result["values"]["rows"]:
        if row["ways"] == 5:
            source = tasks.emoji("test", cross_artist=row["cross_artist"])
            sampler = source.sampler(5, 1, row["queries"], seed=result["config"]["seed"])
            found = evaluate(pretrained.load(name), sampler, 60)
            assert abs(found.mean - row["accuracy"]) < 5 * row["half_width"]


def test_a_shipped_learner_of_other_data_can_be_loaded():
    learner = pretrained.load("omniglot_5way_1shot")
    task = tasks.glyphs("test").sampler(ways=20, shots=1, queries=1)[0]
    predict = learner.adapt(task.support_x, task.support_y)
    assert (predict(task.query_x).argmax(-1) == task.query_y).float().mean() > 0.5  # chance 0.05
