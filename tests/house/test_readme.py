"""What README and first page say at first sight: short, true, and the same as the results."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import front_page
import pytest
from claims_page import reports

from metalearn_tut import claims, pretrained
from metalearn_tut.claims.statistics import FAILS, HOLDS, OPEN

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
INTRO = (ROOT / "book/intro.md").read_text("utf-8")
CHAPTERS = front_page.chapters()


def test_it_is_read_in_half_a_minute():
    lines = README.splitlines()
    assert len(lines) < 120
    first = lines.index("## Ten lines")
    words = re.sub(r"<[^>]+>|\]\([^)]*\)", " ", "\n".join(lines[1:first])).split()
    assert len(words) < 150


def test_its_tables_are_those_that_the_results_give():
    assert front_page.written(README, front_page.for_readme()) == README, (
        "run python tools/front_page.py"
    )


def test_every_chapter_has_a_question_and_links_to_the_page_and_to_colab():
    assert set(CHAPTERS) <= set(front_page.QUESTIONS)
    for name in CHAPTERS.values():
        runs = front_page.file_of(name).suffix == ".ipynb"
        assert README.count(f"/{name}.html) [▶](https://colab.research.google.com/") == runs
        assert README.count(f"/{name}.html)") >= 1
        assert bool(README.count(f"/blob/main/book/{name}.ipynb)")) == runs
    assert {number for *_, number in front_page.LIMITS} <= set(CHAPTERS)


def test_an_answer_is_that_of_the_studys_first_claim_or_it_is_running():
    found = reports()
    for asked in front_page.QUESTIONS.values():
        assert bool(asked.study) != bool(asked.answer and not asked.study)
        if asked.study:
            said = front_page.answered(found[asked.study], asked.answer)
            ended = found[asked.study].claims()[0].effect is not None
            assert (said == front_page.RUNNING) != ended
            assert README.count(said) >= 1


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (HOLDS, "Yes: −1.2 ± 0.3 points, 5 trainings, there."),
        (FAILS, "No: −1.2 ± 0.3 points, 5 trainings, there."),
        (OPEN, "Not decided: −1.2 ± 0.3 points, 5 trainings, there."),
        (None, "Running."),
    ],
)
def test_a_verdict_is_said_with_its_interval_over_trainings(verdict, said):
    effect = SimpleNamespace(mean=-0.0123, over_seeds=0.0031, over_tasks=0.5)
    finding = SimpleNamespace(effect=effect if verdict else None, verdict=verdict)
    assert front_page.sentence(finding, 5, "there") == said


def test_a_question_is_about_what_the_studys_first_claim_says():
    """Where a claim is changed, look at the question again."""
    says = {
        "hetrom": "With random labels in 30 % of the training tasks",
        "anp": "85 % of the weights can go",
        "abp_cifar10": "Without a third of its blocks",
        "tsmd": "A student that an adapted teacher guides learns a task better",
        "metagater": "With half of the multiply-adds, gated networks",
        "compact": "Prune a wide learner by ANP rather than train a narrow one",
    }
    asked = {a.study for a in front_page.QUESTIONS.values() if a.study}
    assert asked == set(says)
    for study, words in says.items():
        assert claims.load(study).claims[0].text.startswith(words)


def test_a_readme_without_its_marks_is_refused():
    with pytest.raises(
        ValueError, match=r"needs one <!-- made by tools/front_page\.py: limits -->"
    ):
        front_page.written(README.replace("front_page.py: limits", ""), front_page.for_readme())


def test_the_learner_that_is_shown_has_the_size_that_is_said():
    name = re.search(r'pretrained\.load\("(\w+)"\)', README)[1]
    said = f"{pretrained.path(name).stat().st_size / 1000:.0f} kB"
    assert f'("{name}")  # Conv4, {said}' in README
    for text in (README, INTRO):
        assert f"a learner of {said}" in text
    (file,) = (ROOT / "results").glob(f"emoji/{name}.json")
    row = json.loads(file.read_text("utf-8"))["values"]["rows"][0]
    assert (row["ways"], row["queries"], row["cross_artist"]) == (5, 4, False)
    assert f"{row['accuracy']:.4f} ± {row['half_width']:.4f} (600 tasks" in README


def test_no_number_of_the_first_round_is_left():
    for text in (README, INTRO):
        assert not re.search(r"[+-]0\.\d{3} ± ", text)
        assert "side_by_side" not in text and "first_round" not in text
