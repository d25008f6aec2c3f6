"""The numbers that the README prints are those in results/."""

import json
import re
from pathlib import Path

import benchmarks_page
import pretrain_emoji
import pytest
import side_by_side
from PIL import Image

from metalearn_tut import evaluate, pretrained, tasks

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "results" / "pretrained").glob("*.json"))]
EMOJI = sorted(set(pretrain_emoji.RECIPES) - set(pretrain_emoji.COMPARED))


def test_every_shipped_learner_has_a_result_and_is_small():
    assert pretrained.available() == sorted(NAMES + EMOJI)
    assert all((ROOT / "results" / "emoji" / f"{name}.json").exists() for name in EMOJI)
    assert all(pretrained.path(name).stat().st_size < 500_000 for name in NAMES + EMOJI)
    assert pretrained.path("emoji_5way_1shot_small").stat().st_size < 20 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_prints_what_was_measured(name):
    values = json.loads((ROOT / "results" / "pretrained" / f"{name}.json").read_text())["values"]
    (row,) = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    _, _, _, deployable, transductive, training, _ = (cell.strip() for cell in row.split("|"))
    for cell, norm in ((deployable, "support"), (transductive, "batch")):
        assert cell == f"{values[norm]['mean']:.3f} ± {values[norm]['half_width']:.3f}"
    assert training == f"{values['training_seconds'] / 60:.0f} min"


def test_the_readme_prints_the_measured_speed_and_memory():
    results = benchmarks_page.Results(ROOT)
    assert results.values("meta_training")["gradient_difference"] < 1e-5
    readme = (ROOT / "README.md").read_text()
    cases = results.cases()
    for which, said in (
        ("", "is {:.1f} to {:.1f} times as fast as with the fastest"),
        ("28x28", ": {:.1f} to {:.1f} times at 28×28 pixels"),
        ("84x84", ", {:.1f} to {:.1f} times at 84×84"),
    ):
        some = {name: case for name, case in cases.items() if which in name}
        factors = [each["of_medians"] for each in benchmarks_page.ratios(some)]
        assert said.format(min(factors), max(factors)) in readme
    shares = sorted(benchmarks_page.more_memory(results))
    assert f"takes {shares[0]:.1f} to {shares[-1]:.1f} times the memory" in readme


def test_the_readme_prints_how_fast_the_inverse_is():
    path = ROOT / "results" / "benchmarks" / "saliency.json"
    values = json.loads(path.read_text())["values"]
    ratios = sorted(round(each["ratio"]) for each in values.values())
    said = "{} to {} times as fast as one update per row".format(*ratios)
    assert said in (ROOT / "README.md").read_text()
    assert all(each["inverse_difference"] < 1e-6 for each in values.values())


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


def test_the_readmes_figure_is_of_these_numbers():
    with Image.open(side_by_side.FIGURE) as figure:
        assert figure.text["Description"] == side_by_side.digest()
