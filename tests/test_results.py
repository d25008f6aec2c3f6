"""The numbers that the README prints are those in results/."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from metalearn_tut import evaluate, pretrained, tasks

ROOT = Path(__file__).parent.parent
NAMES = [path.stem for path in sorted((ROOT / "results" / "pretrained").glob("*.json"))]


def test_every_shipped_learner_has_a_result_and_is_small():
    assert pretrained.available() == NAMES
    assert all(pretrained.path(name).stat().st_size < 500_000 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_prints_what_was_measured(name):
    values = json.loads((ROOT / "results" / "pretrained" / f"{name}.json").read_text())["values"]
    (row,) = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    _, _, _, deployable, transductive, training, _ = (cell.strip() for cell in row.split("|"))
    for cell, norm in ((deployable, "support"), (transductive, "batch")):
        assert cell == f"{values[norm]['mean']:.3f} ± {values[norm]['half_width']:.3f}"
    assert training == f"{values['training_seconds'] / 60:.0f} min"


def test_the_readme_prints_the_measured_speed():
    speed = json.loads((ROOT / "results" / "benchmarks" / "meta_training.json").read_text())
    text = f"{speed['values']['ratio']:.1f} times"
    assert text in (ROOT / "README.md").read_text()
    assert speed["values"]["gradient_difference"] < 1e-5


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("glyphs")])
def test_a_shipped_learner_does_what_its_result_says(name):
    values = json.loads((ROOT / "results" / "pretrained" / f"{name}.json").read_text())["values"]
    learner = pretrained.load(name)
    shots = 5 if name.endswith("5shot") else 1
    result = evaluate(learner, tasks.glyphs("test").sampler(5, shots, 15, seed=1), 60)
    assert learner.model.norm == "support"
    # Sixty tasks have an interval some three times as wide as the six hundred on record.
    assert abs(result.mean - values["support"]["mean"]) < 5 * values["support"]["half_width"]


def test_a_shipped_learner_of_other_data_can_be_loaded():
    learner = pretrained.load("omniglot_5way_1shot")
    task = tasks.glyphs("test").sampler(ways=20, shots=1, queries=1)[0]
    predict = learner.adapt(task.support_x, task.support_y)
    assert (predict(task.query_x).argmax(-1) == task.query_y).float().mean() > 0.5  # chance 0.05


def test_chapter_3_prints_what_the_study_found():
    claims = json.loads((ROOT / "results" / "claims" / "hetrom.json").read_text())["values"][
        "claims"
    ]
    cells = nbformat.read(ROOT / "book" / "03_rank_losses.ipynb", as_version=4).cells
    (text,) = (cell.source for cell in cells if cell.id == "help-recorded")
    rows = [
        [c.strip() for c in row.split("|")[1:-1]] for row in re.findall(r"^\|.*±.*$", text, re.M)
    ]
    for kind, words in (("labels", "random labels"), ("outliers", "random patterns")):
        for rate in (0.3, 0.5):
            found = claims["1"]["values"][f"{kind}-{rate}"]
            gap, accuracy = found["hetrom - mean"], found["accuracy"]
            row = [f"{100 * rate:.0f} %, {words}"]
            row += [f"{accuracy[arm]:.3f}" for arm in ("mean", "hetrom", "oracle")]
            assert [*row, f"{gap['mean']:+.3f} ± {gap['over_tasks']:.3f}"] == rows.pop(0)
    assert not rows and [c["holds"] for c in claims.values()] == [False] * 4 + [True]
    assert f"cost {-claims['3']['values']['hetrom - mean']['mean']:.3f}" in text
    assert claims["2"]["values"]["hard"]["mean"] < 0
    guided = claims["4"]["values"]
    low, high = (guided[rate]["sg - best"] for rate in ("0.3", "0.5"))
    assert low["mean"] - low["over_tasks"] > 0 > high["mean"] + high["over_tasks"] + 0.1
    assert f"{claims['5']['values']['ratios']['hetrom']:.2f} of the mean's time" in text
