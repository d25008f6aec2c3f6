"""The numbers that the README prints are those in results/."""

import json
import re
from pathlib import Path

import benchmarks_page
import nbformat
import pretrain_emoji
import pytest
import side_by_side
from PIL import Image

from metalearn_tut import evaluate, pretrained, tasks
from metalearn_tut.nb import recorded

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "results" / "pretrained").glob("*.json"))]
EMOJI = sorted(set(pretrain_emoji.RECIPES) - set(pretrain_emoji.COMPARED))


def test_every_shipped_learner_has_a_result_and_is_small():
    assert pretrained.available() == sorted(NAMES + EMOJI)
    assert all((ROOT / "results" / "emoji" / f"{name}.json").exists() for name in EMOJI)
    assert all(pretrained.path(name).stat().st_size < 500_000 for name in NAMES + EMOJI)
    assert pretrained.path("emoji_5way_1shot_small").stat().st_size <= 20_000


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


def claims_of(study):
    path = ROOT / "results" / "claims" / "first_round.json"
    return json.loads(path.read_text())[study]["claims"]


def cell_of(chapter, name):
    cells = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4).cells
    (text,) = (cell.source for cell in cells if cell.id == name)
    return text


def said(gap):
    return f"{gap['mean']:+.3f} ± {gap['over_tasks']:.3f}"


def test_chapter_7_prints_what_the_study_found():
    claims = claims_of("metagater")
    text = cell_of("07_metagater_federated_gates", "help-recorded")
    one, two, three, four, five, six = (claim["values"] for claim in claims.values())
    rows = [
        [c.strip() for c in row.split("|")[2:-1]] for row in re.findall(r"^\|.*±.*$", text, re.M)
    ]
    for images in ("5", "10", "20"):
        accuracy = [f"{one[images]['accuracy'][arm]:.3f}" for arm in ("dense", "gated-0.5")]
        assert rows.pop(0) == [*accuracy, said(one[images]["gated - dense"])]
        assert f"{one[images]['macs']['gated-0.5']:.2f}" in text
    for other in ("scratch", "random", "magnitude", "average", "static-10", "fedavg"):
        assert rows.pop(0) == [said(two[images][other]) for images in ("5", "10", "20")]
    assert not rows
    assert [c["holds"] for c in claims.values()] == [False, False, True, False, False, False]
    assert "One of six criteria held" in text
    assert f"({said(three['10']['joint - separate'])} with 10 images)" in text
    assert [one[n]["gated - dense"]["mean"] < -0.03 for n in ("5", "10", "20")] == [0, 0, 1]
    for name in ("gated-0.5", "gated-0.7", "static-8", "static-12"):
        point = four["points"][name]
        assert f"{point['macs']:.2f}" in text and f"{point['accuracy']:.3f}" in text
    assert four["points"]["gated-0.35"] == four["points"]["gated-0.5"]
    grown = five["falls"]["gated-0.5"]
    assert f"to {min(grown):.1f} to {max(grown):.1f} times" in text
    assert f"a single one: {said(five['4 steps - 1 step'])}" in text
    slow, fast = (six["ratios"][f"{n} 0.5"]["time"] for n in ("Conv4-16, 28x28", "Conv4-64, 84x84"))
    assert f"took {slow:.1f} times as long" in text and f"{fast:.2f} of the time with 64" in text


def test_chapter_7_prints_what_the_second_study_found():
    claims = claims_of("metagater_second")
    text = cell_of("07_metagater_federated_gates", "help-recorded")
    text = text[text.index("`metagater_second`") :].split("\n\n")[0]
    assert [claim["holds"] for claim in claims.values()] == [True]
    assert "Its criterion held, though" in text
    points = [claims["1"]["values"][f"weight-{price}"] for price in ("0.5", "1.0", "2.0")]
    assert re.findall(r"(0\.\d+) at (0\.\d+)", text) == [
        (f"{point['accuracy']:.3f}", f"{point['macs']:.2f}") for point in points
    ]
    found = [said(point["gated - dense"]) for point in points]
    assert "less Per-FedAvg {}, {} and {}.".format(*found) in text
    seeds = points[-1]["gated - dense"]["seeds"]
    assert f"range from {max(seeds):.3f} to {min(seeds):.3f}." in text


def test_the_readmes_figure_is_of_these_numbers():
    with Image.open(side_by_side.FIGURE) as figure:
        assert figure.text["Description"] == side_by_side.digest()


def test_chapter_8_prints_what_the_comparison_found():
    claims, text = claims_of("compact"), cell_of("08_compact_learners", "help-recorded")
    values = {number: claim["values"] for number, claim in claims.items()}
    held = [number for number, claim in claims.items() if claim["holds"]]
    assert held == ["1", "4", "6", "7"] and len(claims) == 8
    assert "eight expectations" in text and "of which four held" in text
    rows = [
        [c.strip() for c in row.split("|")[2:-1]] for row in re.findall(r"^\|.*±.*\|$", text, re.M)
    ]
    word = {True: "yes", False: "no"}
    for number in "123":
        assert rows.pop(0) == [said(values[number]["gap"]), word[claims[number]["holds"]]]
    prices = re.findall(r"gates, price (\S+), less .*; (0\.\d+|\d\.\d+) of its multiply-adds", text)
    whole = values["1"]["maml16"]["macs"]
    assert prices == [
        (name.removeprefix("gated"), f"{gated['macs'] / whole:.2f}")
        for name, gated in values["4"].items()
    ]
    assert [rows.pop(0)[0] for _ in prices] == [
        said(gated["gap"]) for gated in values["4"].values()
    ]
    for number in "5678":
        assert rows.pop(0) == [said(values[number]["gap"]), word[claims[number]["holds"]]]
    assert not rows
    assert f"adapt in {values['7']['time to adapt']:.2f} of MAML's time" in text
    for name, how in (("hetrom", "by HeTRoM, pruned less whole, "), ("mean", "by the mean ")):
        assert how + said(values["6"][f"noisy-{name}: pruned - whole"]) in text
    latency = values["8"]["latency"]
    assert f"({latency['filters']:.2f} of it, with masks {latency['anp75']:.2f})" in text


def test_chapter_8_reads_the_fronts_and_the_choices_rightly():
    table = {n: r for n, r in recorded.side_by_side().items() if not n.startswith("noisy")}
    both = {what: side_by_side.front(table, what) for what in ("bytes", "macs")}
    assert both["bytes"] == ["tsmd-anp50", "proto8", "anp90", "anp75", "anp50", "proto32"]
    assert both["macs"] == ["tsmd-anp50", "proto8", "gated2", "gated1", "anp50", "proto32"]

    def best(rows, what, most):
        return max((n for n in rows if rows[n][what] <= most), key=lambda n: rows[n]["accuracy"])

    kilobytes = {8: "tsmd-anp50", 16: "proto8", 40: "anp75", 100: "anp50", 200: "proto32"}
    assert {kb: best(table, "bytes", 1e3 * kb) for kb in kilobytes} == kilobytes
    assert best(table, "macs", 0.5e6) == "gated2"
    for what in ("adapt", "latency"):
        assert best(table, what, 1.1 * min(r[what] for r in table.values())) == "proto8"
    for one, other in (
        ("gated1", "anp75"),
        ("gated2", "anp90"),
        ("proto8", "maml8"),
        ("proto8", "tsmd"),
    ):
        a, b = table[one], table[other]
        assert 0 < a["accuracy"] - b["accuracy"] <= a["over_seeds"] + b["over_seeds"]
    noisy = {n: r for n, r in recorded.side_by_side().items() if n.startswith("noisy")}
    assert best(noisy, "bytes", 1e9) == "noisy-hetrom"
    assert best(noisy, "bytes", 40e3) == "noisy-hetrom-anp75"
