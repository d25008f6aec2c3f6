"""The page about the claims says what the studies declare and what the results hold."""

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import claims_page
import claims_text
import pytest
import toy_study
from claims_page import PAPERS
from contract_text import spelling

from metalearn_tut import claims
from metalearn_tut.claims import report

ROOT = Path(__file__).parents[2]
RUN = [name for name in claims.STUDIES if (ROOT / "results/claims" / f"{name}.json").is_file()]


def generated(root=ROOT):
    return claims_page.generated(root)["claims"]


@pytest.fixture(scope="module")
def page():
    return generated()


@pytest.fixture
def results(tmp_path):
    """A copy of the results, to be changed."""
    shutil.copytree(ROOT / "results" / "claims", tmp_path / "results" / "claims")
    return tmp_path


def change(root, name, edit):
    path = root / "results" / "claims" / f"{name}.json"
    result = json.loads(path.read_text())
    edit(result)
    path.write_text(json.dumps(result))


def box(page, name, number):
    """The lines of one claim."""
    (found,) = re.findall(
        rf"^::::{{admonition}} [^\n]*\n:class: \w+\n:name: claim-{name}-{number}\n.*?^::::$",
        page,
        re.MULTILINE | re.DOTALL,
    )
    return found


def row(page, name):
    return next(line for line in page.splitlines() if f"(#study-{name})" in line)


@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_claim_of_every_study_is_there_with_source_and_criterion(page, name):
    study = claims.load(name)
    about = importlib.import_module(f"metalearn_tut.claims.{claims.STUDIES[name]}").__doc__
    assert f"\n(study-{name})=\n### Study `{name}`\n\n{about.strip()}\n" in page
    assert f"```\nmetalearn-tut reproduce {name}\n```" in page
    for claim in study.claims:
        said = box(page, name, claim.number)
        for text in (claim.text, claim.source, claim.criterion):
            assert claims_text.plain(text) in said
        assert f"[{claim.number}](#claim-{name}-{claim.number})" in row(page, name)


@pytest.mark.parametrize("name", RUN)
def test_verdicts_and_numbers_are_those_on_file(page, name):
    result = json.loads((ROOT / "results/claims" / f"{name}.json").read_text())
    for number, kept in result["values"]["claims"].items():
        said = box(page, name, number)
        word = {True: "held", False: "did not hold", None: "not decided"}[kept["holds"]]
        assert said.startswith(f"::::{{admonition}} Claim {number}: {word}\n")
        for piece in re.split(r"; (?!±)", kept["sentence"].removesuffix(".")):
            assert f"\n* {claims_text.plain(piece)}\n" in said
    for told in (result["date"], result["commit"][:8], result["device"], "torch 2"):
        assert told in page


def test_every_claim_that_is_taken_up_again_names_the_other(page):
    said = box(page, "hetrom", 2)
    assert "Taken up again: [claim 2 of hetrom\\_second](#claim-hetrom_second-2), **held**" in said
    said = box(page, "hetrom_second", 2)
    assert "Takes up: [claim 2 of hetrom](#claim-hetrom-2), **did not hold**" in said
    again = box(page, "abp", 2)
    assert "claim 1 of abp\\_cifar" in again and "abp\\_second" not in again
    for name in claims.STUDIES:
        first = name.partition("_")[0]
        numbers = {claim.number for claim in claims.load(first).claims}
        for claim in claims.load(name).claims:
            assert claim.follows in (numbers if name != first else {None}) | {None}


@pytest.mark.parametrize("holds", [True, False, None])
def test_a_verdict_is_shown_as_it_is_in_color_and_in_words(results, holds):
    def edit(result):
        kept = result["values"]["claims"]["3"]
        kept.update(holds=holds, sentence="Nobody measured +0.1234 ± 0.0567 over 9 tasks.")
        kept["values"]["guided - mean"] = {
            "mean": 0.98765,
            "over_tasks": 0.01,
            "over_seeds": None,
            "seeds": [0.98765],
            "n_tasks": 9,
        }

    change(results, "hetrom_second", edit)
    page = generated(results)
    said, cells = box(page, "hetrom_second", 3), row(page, "hetrom_second").split("|")[2:5]
    word = {True: "held", False: "did not hold", None: "not decided"}[holds]
    color = {True: "tip", False: "danger", None: "warning"}[holds]
    assert said.startswith(f"::::{{admonition}} Claim 3: {word}\n:class: {color}\n")
    assert "\n* Nobody measured +0.1234 ±\u00a00.0567 over 9 tasks\n" in said
    assert "| guided - mean | +0.9877 ±\u00a00.0100 (9) | +0.9877 |" in said
    assert ["(#claim-hetrom_second-3)" in cell for cell in cells] == [
        holds is kind for kind in (True, False, None)
    ]
    assert f"hetrom_second-3), **{word}**" in box(page, "hetrom", 3)


def test_a_result_of_another_configuration_ends_the_build(results):
    def edit(result):
        result["config"]["jobs"]["gates-0"]["depth"] = 32

    change(results, "abp", edit)
    with pytest.raises(ValueError, match=r"abp\.json is of another configuration \(job gates-0\)"):
        generated(results)


def test_a_result_of_another_criterion_ends_the_build(results):
    change(results, "anp", lambda result: result["config"]["criteria"].update({"2": "above 0"}))
    with pytest.raises(ValueError, match=r"anp\.json is of another configuration \(criterion 2\)"):
        generated(results)


def test_a_study_without_a_result_is_not_run_yet_until_it_has_one(results, monkeypatch):
    study = replace(toy_study.STUDY, name="metagater")
    load = claims.load
    others = [name for name in RUN if name.partition("_")[0] not in ("tsmd", "metagater")]
    (results / "results" / "claims" / "metagater.json").unlink(missing_ok=True)
    homes = {name: claims.STUDIES[name] for name in (*others, "metagater")}
    monkeypatch.setattr(claims, "STUDIES", homes)
    monkeypatch.setattr(claims, "load", lambda name: study if name == "metagater" else load(name))
    page = generated(results)
    assert "Claim 1: not run yet\n:class: note\n:name: claim-metagater-1" in page
    assert row(page, "metagater").split("|")[2:5] == [
        "  ",
        "  ",
        " not run yet, 1 of 1: [1](#claim-metagater-1) ",
    ]
    assert "4 jobs, not run yet:" in page and "| TSMD | | | not run yet |" in page

    jobs = [replace(job, run=instead) for job in study.jobs(False)]
    ran = replace(study, jobs=lambda quick: jobs)
    folder = results / "results" / "claims"
    assert report.reproduce(ran, out=results / "runs", results=folder)
    page = generated(results)
    assert "Claim 1: held\n:class: tip\n:name: claim-metagater-1" in page
    assert "* means 0.500, 0.500\n" in page and "4 jobs took 0 min in all." in page


def instead(config, folder):
    return {"accuracy": [0.5] * 20}


def test_a_run_that_was_interrupted_says_that_its_time_is_a_lower_bound(results):
    def edit(result):
        result["values"].update(seconds=7380.0, resumed=["gates-0"])

    change(results, "abp", edit)
    page = generated(results)
    assert "55 jobs took at least 2 h 3 min in all" in page
    assert "* Interrupted, and only the last part timed: gates-0" in page


def test_the_papers_scale_is_shown_where_it_was_run(results):
    assert "This was not run. The command:" in generated(results)
    gap = {"mean": 0.0321, "over_tasks": 0.002, "over_seeds": 0.01, "seeds": [0.03], "n_tasks": 600}
    found = {
        "config": {},
        "values": {"minus_mean": {"sg": gap}, "accuracy": {"sg": [[0.5, 0.01]]}, "jobs": {"a": 1}},
        "date": "2026-12-24",
        "device": "A GPU",
    }
    folder = results / "results" / "paper_scale"
    folder.mkdir()
    (folder / "hetrom_5shot.json").write_text(json.dumps(found))
    text = generated(results)
    said = text[text.index("### HeTRoM at the paper's scale") : text.index("## ANP")]
    assert "`hetrom_5shot.json`, 2026-12-24, A GPU:" in said and "not run" not in said
    assert "| minus\\_mean: sg | +0.0321 ±\u00a00.0020 (600) | +0.0300; ±\u00a00.0100 |" in said
    assert "* accuracy: sg: 1: 1: 0.5\n" in said and "a: 1" not in said
    assert said.count("Not run yet") == 0


def test_all_papers_are_there_and_all_studies_are_of_one(page):
    for paper, (title, key, _) in PAPERS.items():
        whose = f"The method of {{cite:t}}`{key}`" if key else "Ours: no paper compares them."
        assert f"\n## {title}\n\n{whose}" in page
        assert paper in claims.STUDIES or f"| {title} | | | not run yet |" in page
    assert {name.partition("_")[0] for name in claims.STUDIES} <= PAPERS.keys()


def test_links_lead_to_a_place_that_is_there_once(page):
    places = re.findall(r"^\((study-\w+)\)=$|^:name: (claim-\S+)$", page, re.MULTILINE)
    names = [a or b for a, b in places]
    assert len(names) == len(set(names))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(names)


def test_the_generated_text_is_spelled_as_the_book_is(page):
    assert list(spelling(page)) == []


def test_what_is_special_in_markdown_is_shown_as_it_is():
    assert claims_text.plain("a_b {c} $d$ <e> [f] 1*2 |") == (
        r"a\_b \{c\} \$d\$ \<e\> \[f\] 1\*2 \|"
    )
    assert claims_text.docstring(Path(claims_page.__file__).parent / "none.py") == ""


def test_an_interval_over_seeds_stays_with_its_number():
    said = "A - B: a +0.1 ± 0.1 over 9 tasks; ± 0.2 over seeds; b: 3."
    assert claims_text.pieces(said) == [
        "* A - B: a +0.1 ±\u00a00.1 over 9 tasks; ±\u00a00.2 over seeds",
        "* b: 3",
    ]
