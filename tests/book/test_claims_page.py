"""The page about the claims says what the studies declare and what the results hold."""

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import claims_figure
import claims_page
import claims_text
import matplotlib as mpl
import pytest
import reproducing_page
import toy_study
from claims_page import PAPERS

from metalearn_tut import claims
from metalearn_tut.claims import Claim, Job, report
from metalearn_tut.claims.records import write_record
from metalearn_tut.claims.report import Finding
from metalearn_tut.claims.statistics import Effect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page():
    return claims_page.generated()["claims"]


def test_every_claim_is_in_the_table_and_in_the_details_with_its_criterion(page):
    for study in map(claims.load, claims.STUDIES):
        assert f"\n(study-{study.name})=\n" in page
        assert f"```\nmetalearn-tut reproduce {study.name}\n```" in page
        for claim in study.claims:
            plain = [claims_text.plain(text) for text in (claim.text, claim.source, claim.ours)]
            title = PAPERS[claims_page.paper_of(study.name)].title
            assert f"| {title}: {plain[0]} | {claims_text.plain(study.data)} | " in page
            assert all(text in page for text in plain)
            assert claims_text.plain(claim.criterion(study.seeds)) in page


def test_every_study_is_of_a_paper_that_the_page_has():
    assert {claims_page.paper_of(name) for name in claims.STUDIES} <= PAPERS.keys()


def test_the_first_round_is_one_folded_table_that_says_why_it_decides_nothing(page):
    said = page[page.index("## The first round") :]
    rows = re.findall(r"^\| (\w+(?:\\_\w+)?) \| \d+\. ", said, re.M)
    first = json.loads((ROOT / "results" / "claims" / "first_round.json").read_text("utf-8"))
    assert len(rows) == sum(len(study["claims"]) for study in first.values()) == 47
    assert "It decides nothing" in said and said.count(":::{dropdown}") == 1
    assert "-0.022 ±\u00a00.003 over tasks, ±\u00a00.036 over trainings" in said


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """``toy(long=..., short=...)``: the page of one study with right answers of each training."""

    def make(claim=toy_study.CLAIM, **right):
        jobs = [
            Job(f"{arm}-{seed}", {}, toy_study.refuse)
            for arm, trainings in right.items()
            for seed in range(len(trainings))
        ]
        study = replace(
            toy_study.STUDY, name="hetrom", claims=(claim,), jobs=lambda quick: jobs, pilot="None."
        )
        monkeypatch.setattr(claims, "STUDIES", ("hetrom",))
        monkeypatch.setattr(claims, "load", lambda name: study)
        folder = tmp_path / "results" / "claims"
        where = report.jobs_folder(folder, study)
        shutil.rmtree(folder, ignore_errors=True)
        where.mkdir(parents=True)
        shutil.copy(ROOT / "results" / "claims" / "first_round.json", folder)
        for job in jobs:
            arm, seed = job.name.split("-")
            if right[arm][int(seed)] is not None:
                answers = toy_study.answers(right[arm][int(seed)])
                write_record(job, where, answers, seconds=3600)
        return claims_page.generated(tmp_path)["claims"]

    return make


def test_verdicts_and_numbers_are_those_on_file(toy):
    page = toy(long=[[9, 9], [9, 8]], short=[[5, 5], [5, 4]])
    assert "| HeTRoM: Practice helps. | toys | **holds** | +40.0 ±\u00a00.0 | nothing |" in page
    assert "Of 1 claims: 1 holds." in page
    assert "+0.4000 ±\u00a00.0000 over 2 trainings; ±\u00a00.0000 over 4 tasks" in page
    assert "Trainings: +0.4000, +0.4000" in page and "the jobs on file took 4.0" in page
    assert "| long | 0.8750 | 2 |" in page
    assert ":name: fig-claims-hetrom" in page and ":alt: long − short: +40.0" in page


def test_a_claim_may_fail_or_stay_open(toy):
    page = toy(long=[[1, 1], [1, 1]], short=[[5, 5], [5, 5]])
    assert "| **does not hold** | -40.0 ±\u00a00.0 |" in page
    page = toy(long=[[9, 9], [1, 1]], short=[[5, 5], [5, 5]])
    assert "| not decided | +0.0 ±\u00a0508.2; could have seen 563.3 |" in page


def test_what_is_not_complete_says_how_far_it_is(toy):
    page = toy(long=[[9, 9], None], short=[[5, 5], [5, 4]])
    assert "| running (3 of 4 jobs) |  | nothing |" in page and "{figure}" not in page
    assert "Running: 3 of 4 jobs are done." in page
    page = toy(long=[None, None], short=[None, None])
    assert "| not begun (4 jobs) |" in page


def test_a_file_of_another_configuration_counts_for_nothing(toy, tmp_path):
    toy(long=[[9, 9], [9, 8]], short=[[5, 5], [5, 4]])
    path = tmp_path / "results" / "claims" / "hetrom" / "jobs" / "long-0.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config": {"another": 1}}))
    assert "running (3 of 4 jobs)" in claims_page.generated(tmp_path)["claims"]


def test_decided_claims_stand_first(page):
    table = page.partition("\n## ")[0]
    places = [re.search(r"\| (\*\*|not decided|running|not begun)", row)[1]
              for row in table.splitlines()[4:]]  # fmt: skip
    order = ["**", "not decided", "running", "not begun"]
    assert places == sorted(places, key=order.index) and places[0] == "**"
    finding = Finding(toy_study.CLAIM, Effect((0.4, 0.4), 0.0, 4))
    open_one = replace(finding, effect=Effect((-0.4, 0.4), 0.0, 4))
    missing = replace(finding, effect=None)
    cases = (finding, {"a": {}}), (open_one, {"a": {}}), (missing, {"a": {}}), (missing, {})
    fits = [claims_page._place(f, report.Report(toy_study.STUDY, r, 4)) for f, r in cases]
    assert fits == [0, 1, 2, 3]


def test_the_appendix_says_what_is_on_file(toy, tmp_path):
    toy(long=[[9, 9], [9, 8]], short=[[5, 5], [5, 4]])
    said = reproducing_page.generated(tmp_path)
    assert "11 studies, 47 claims, 16 hours" in said["first_round"]
    assert "20 of its claims were called kept." in said["first_round"]
    assert said["decided"].splitlines() == [
        "Of 1 studies 1 has ended. Of 1 claims 1 have their numbers: 1 holds, 0 does not hold, "
        "0 not decided.",
        "",
        "| claim | verdict | points of accuracy |",
        "| - | - | - |",
        "| HeTRoM: Practice helps. | **holds** | +40.0 ±\u00a00.0 |",
    ]
    toy(long=[[9, 9], None], short=[[5, 5], [5, 4]])
    assert reproducing_page.decided(tmp_path).startswith("Of 1 studies 0 have ended. Of 1 claims 0")


# The figure


def test_a_forest_plot_shows_both_intervals_in_points_and_the_margin():
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    claim = Claim("", "a", "b", kind="equivalent", margin=0.02)
    effect = Effect((0.01, 0.02, 0.03), 0.004, 1800)
    figure, ax = plt.subplots()
    claims_figure.draw(ax, [claims_figure.Row("a − b", Finding(claim, effect))])
    lines = [line.get_xdata() for line in ax.lines]
    plt.close(figure)
    assert lines[0] == pytest.approx([2 - 100 * effect.over_seeds, 2 + 100 * effect.over_seeds])
    assert lines[1] == pytest.approx([1.6, 2.4]) and lines[2] == pytest.approx([2])
    assert [list(each) for each in lines[3:5]] == [[-2, -2], [2, 2]]
    assert claims_figure.bounds(replace(claim, kind="non-inferior")) == [-0.02]
    assert claims_figure.bounds(toy_study.CLAIM) == claims_figure.bounds(toy_study.BESIDE) == []


def test_a_figure_is_an_image_that_the_page_holds_itself():
    row = claims_figure.Row("a", Finding(toy_study.CLAIM, Effect((0.1, 0.2), 0.01, 20)))
    kind, _, data = claims_figure.forest([row]).partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG")


def test_words_are_shown_as_they_are():
    assert claims_text.plain("a_b {c} $d$ <e> [f] 1*2 |") == (
        r"a\_b \{c\} \$d\$ \<e\> \[f\] 1\*2 \|"
    )
    assert claims_text.docstring(Path(claims_page.__file__).parent / "none.py") == ""
