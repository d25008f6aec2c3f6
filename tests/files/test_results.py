"""The numbers that the README prints are those in results/."""

import json
import re
from pathlib import Path

import benchmarks_page
import nbformat
import pytest
import side_by_side
from PIL import Image

from metalearn_tut import evaluate, pretrained, tasks
from metalearn_tut.nb import recorded

ROOT = Path(__file__).parents[2]
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


def test_chapter_3_prints_what_the_study_found():
    claims, text = claims_of("hetrom"), cell_of("03_rank_losses", "help-recorded")
    text = text[: text.index("`hetrom_second`")]
    rows = [
        [c.strip() for c in row.split("|")[1:-1]] for row in re.findall(r"^\|.*±.*$", text, re.M)
    ]
    for kind, words in (("labels", "random labels"), ("outliers", "random patterns")):
        for rate in (0.3, 0.5):
            found = claims["1"]["values"][f"{kind}-{rate}"]
            row = [f"{100 * rate:.0f} %, {words}"]
            row += [f"{found['accuracy'][arm]:.3f}" for arm in ("mean", "hetrom", "oracle")]
            assert [*row, said(found["hetrom - mean"])] == rows.pop(0)
    assert not rows and [c["holds"] for c in claims.values()] == [False] * 4 + [True]
    assert f"cost {-claims['3']['values']['hetrom - mean']['mean']:.3f}" in text
    assert claims["2"]["values"]["hard"]["mean"] < 0
    guided = claims["4"]["values"]
    low, high = (guided[rate]["sg - best"] for rate in ("0.3", "0.5"))
    assert low["mean"] - low["over_tasks"] > 0 > high["mean"] + high["over_tasks"] + 0.1
    assert f"{claims['5']['values']['ratios']['hetrom']:.2f} of the mean's time" in text


def test_chapter_3_prints_what_the_second_study_found():
    claims, text = claims_of("hetrom_second"), cell_of("03_rank_losses", "help-recorded")
    rows = re.findall(r"^\|.*±.*\|$", text[text.index("`hetrom_second`") :], re.M)
    values = {number: claim["values"] for number, claim in claims.items()}
    assert [claim["holds"] for claim in claims.values()] == [False, True, True, True]
    seeds = [mean > 0 for mean in values["2"]["hard"]["seeds"]]
    assert len(seeds) == 3 and sum(seeds) == 2
    assert "Three of four held, the second in two seeds of three." in text
    outliers, hard, clean, guided = rows
    assert f"50 %: {said(values['1']['bags-0.5']['hetrom - mean'])} |" in outliers
    assert values["2"]["best"] == "easy-top-4"
    easy = said(values["2"]["easy"])
    assert f"hardest 4 − mean: {said(values['2']['hard'])}; on easy tasks {easy} |" in hard
    assert f"guided − mean: {said(values['3']['sg - mean'])} |" in clean
    low, high = (said(values["4"][rate]["sg - best"]) for rate in ("0.3", "0.5"))
    assert f"{low} (30 %), {high} (50 %)" in guided


def test_chapter_4_prints_what_the_study_found():
    claims, text = claims_of("anp"), cell_of("04_anp_saliency", "help-recorded")
    text = text[: text.index("`anp_second`")]
    one, two, three, _, five = (claim["values"] for claim in claims.values())
    rows = [
        [c.strip() for c in row.split("|")[1:-1]] for row in re.findall(r"^\|.*±.*$", text, re.M)
    ]
    for network in ("conv64", "conv32", "resnet"):
        accuracy, row = one[network]["accuracy"], rows.pop(0)
        spared, alike = f"{network}-anp", f"{network}-uniform"
        printed = [f"{accuracy[arm]:.3f}" for arm in (f"{network}-dense", spared)]
        assert row[1:] == [
            printed[0],
            f"{accuracy[alike]:.3f}" if alike in accuracy else "",
            printed[1],
            said(one[network][f"{spared} - dense"]),
        ]
    for other in ("lobs", "magnitude", "snip", "meta_snip", "random"):
        assert rows.pop(0)[1:] == [said(three[share][other]) for share in ("0.85", "0.90")]
    assert not rows and [c["holds"] for c in claims.values()] == [False, True, False, True, True]
    naive = [f"{two[f'naive-{score}-0.85']['accuracy']:.3f}" for score in ("magnitude", "lobs")]
    assert f"reached {' or '.join(naive)}" in text
    filters = {name: f"{value:.2f}" for name, value in five["filters 0.5"].items()}
    accuracy = f"{five['filters 0.5']['accuracy']:.3f}"
    assert f"{filters['macs']} of the multiplications" in text
    assert f"{filters['latency']} of the {{term}}`latency` and an accuracy of {accuracy}" in text


def test_chapter_4_prints_what_the_second_study_found():
    claims, text = claims_of("anp_second"), cell_of("04_anp_saliency", "help-recorded")
    text = text[text.index("`anp_second`") :]
    one, two, three = (claim["values"] for claim in claims.values())
    assert [claim["holds"] for claim in claims.values()] == [True, False, False]
    wide, narrow = (one[f"conv{n}_5shot"]["anp - dense"] for n in (64, 32))
    assert f"ANP − dense: {said(wide)} for Conv4-64, {said(narrow)} for Conv4-32" in text
    assert min(wide["mean"], narrow["mean"]) >= -0.01  # "within a point"
    after, before = two["0.85"], two["before 0.85"]
    assert f"ANP − L-OBS is {said(after['lobs'])} and ANP − size {said(after['magnitude'])}" in text
    assert f"({said(before['magnitude'])} before the last retraining)" in text
    assert f"down-dated: {said(three['anp - dense'])}." in text


def test_chapter_5_prints_what_the_study_found():
    claims, text = claims_of("abp"), cell_of("05_abp_block_voting", "help-recorded")
    _, two, three, four, five = (claim["values"] for claim in claims.values())
    rows = [
        [c.strip() for c in row.split("|")[1:-1]] for row in re.findall(r"^\|.*±.*$", text, re.M)
    ]
    for ratio in ("0.4", "0.6"):
        arms = (f"unpruned-{ratio}", f"abp-{ratio}")
        accuracy = [f"{two[ratio]['accuracy'][arm]:.3f}" for arm in arms]
        assert rows.pop(0)[1:] == [*accuracy, said(two[ratio]["abp - unpruned"])]
    for other in ("random", "mean", "oneshot", "undistilled", "scratch"):
        found = three[other]
        assert rows.pop(0)[1:] == [f"{found['accuracy']:.3f}", said(found["abp - other"])]
    assert not rows
    assert [claim["holds"] for claim in claims.values()] == [True, False, False, False, True]
    seeds = [mean > 0 for mean in three["random"]["abp - other"]["seeds"]]
    assert (sum(seeds), len(seeds)) == (1, 3) and "in one of three seeds" in text
    mean = three["mean"]["abp - other"]
    assert mean["mean"] < mean["over_tasks"]  # "did not beat the mean mark"
    shares = [share for row in four["shares"].values() for share in row.values()]
    enough = sum(share >= 0.85 for share in shares)
    assert f"in {enough} of {len(shares)} cases" in text
    assert f"the worst was {min(shares):.2f}" in text
    best = max(point["accuracy"] for point in five["curve"].values())
    assert f"left no network with more than {best:.2f}" in text


def test_chapter_5_prints_what_was_found_of_filters():
    claims, text = claims_of("abp_second"), cell_of("05_abp_block_voting", "help-recorded")
    soft, once = (claim["values"] for claim in claims.values())
    for name in ("soft-abp-0.5", "soft-abp-0.25", "soft-alone-0.3"):
        point = soft["curve"][name]
        assert f"{point['accuracy']:.3f} with {100 * point['saved']:.0f} %" in text
    assert soft["curve"]["soft-abp-0.25"]["saved"] > 0.93
    assert f"The first less the last: {said(soft['gap'])}" in text
    pair = (f"{once['curve'][f'once-{way}']['accuracy']:.3f}" for way in ("abp-0.5", "alone-0.3"))
    assert f"at once instead, {said(once['gap'])} ({' against '.join(pair)})" in text


def test_chapter_5_prints_what_was_found_of_photographs():
    claims, text = claims_of("abp_cifar"), cell_of("05_abp_block_voting", "help-recorded")
    found, votes = (claim["values"] for claim in claims.values())
    accuracy = found["0.4"]["accuracy"]
    pair = f"unpruned {accuracy['unpruned-0.4']:.3f}, ABP {accuracy['abp-0.4']:.3f}"
    assert f"{pair}, a difference of {said(found['0.4']['abp - unpruned'])}" in text
    assert f"ABP − random blocks: {said(votes['abp - random'])}" in text


def test_chapter_6_prints_what_the_study_found():
    claims, text = claims_of("tsmd"), cell_of("06_tsmd_distillation", "help-recorded")
    one, two, _, four, five, six = (claim["values"] for claim in claims.values())
    shots = one["1-shot"], one["5-shot"]
    rows = [
        [c.strip() for c in row.split("|")[2:-1]] for row in re.findall(r"^\|.*\d.*$", text, re.M)
    ]
    assert rows.pop(0)[1] == "5 shots" == rows.pop(4)[1]
    for arm in ("student", "fixed", "tsmd", "oracle"):
        assert rows.pop(0) == [f"{found['accuracy'][arm]:.3f}" for found in shots]
    for pair in ("fixed - student", "tsmd - fixed", "oracle - tsmd", "tsmd - student"):
        assert rows.pop(0) == [said(found[pair]) for found in shots]
    assert not rows
    assert [c["holds"] for c in claims.values()] == [False, False, True, False, False, True]
    assert text.count("Two of six criteria held") == 1
    assert f"(± {shots[0]['tsmd - student']['over_seeds']:.3f} over seeds)" in text
    for name, gap in (
        ("guided by the Oracle", shots[0]["taught_by_oracle - student"]),
        ("by the Oracle before it adapts", two["unadapted - student"]),
        ("at test time only", two["test_only - student"]),
        ("at $T = 4$ and $w = 1$", shots[0]["reconstructed - student"]),
        ("by relations of features", four["rkd - student"]),
        ("Ten inner steps instead of five:", five["student_longer - student"]),
        ("did not gain more by guidance:", four["width 4"]["gain"]),
        ("of these were worth", six["1-shot"]["teacher - alone"]),
    ):
        assert f"{name} {said(gap)}" in text
    assert f"and {said(six['1-shot']['teacher - own'])} more than the student's own" in text
    accuracy = six["5-shot"]["accuracy"]
    assert f"they did harm ({said(six['5-shot']['teacher - alone'])})" in text
    assert f"gained little ({accuracy['true'] - accuracy['alone']:+.3f})" in text


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
