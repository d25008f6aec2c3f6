"""The tables that README and book begin with: ``python tools/front_page.py`` writes the README's.

One says what each chapter asks and what was answered; where a study decides it, the answer comes
from its files in ``results/``, or the study is running. The other says what to take for which
limit. ``book/_ext/results_in_pages.py`` writes both into the book's first page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import set_repository
import yaml
from benchmarks_text import table
from claims_page import reports

from metalearn_tut.claims.report import Finding, Report
from metalearn_tut.claims.statistics import FAILS, HOLDS, OPEN

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- made by tools/front_page.py: {} -->", "<!-- end -->"
YES_OR_NO = {HOLDS: "Yes", FAILS: "No", OPEN: "Not decided"}
RUNNING = "Running."


class Asked(NamedTuple):
    """A chapter's question and its answer, or the study whose first claim is the answer."""

    question: str
    answer: str
    study: str = ""


# By the number of the chapter. Where a study answers, "yes" means that its first claim holds.
QUESTIONS = {
    "01": Asked(
        "What is a few-shot task, and how sure is an accuracy?",
        "Many small tasks, not many images: the mean over 600 of them, with an interval.",
    ),
    "02": Asked(
        "How can a network be trained to learn?",
        "By the gradient through its own gradient steps (MAML), in two lines of PyTorch.",
    ),
    "03": Asked(
        "Three training tasks in ten are mislabeled: does it help to leave out the hardest?",
        "",
        "hetrom",
    ),
    "04": Asked("Can 85 % of the weights go, and it still learns?", "", "anp"),
    "05": Asked("Can a third of the blocks go?", "on CIFAR-10", "abp_cifar10"),
    "06": Asked("Does a teacher help that learns each task first?", "", "tsmd"),
    "07": Asked("Is half of the network enough for an image, if gates choose it?", "", "metagater"),
    "08": Asked("One size: prune a wide learner, or train a narrow one?", "", "compact"),
    "A1": Asked(
        "Why is my meta-gradient wrong?",
        "Five ways, each run and caught on the versions that you have.",
    ),
    "A2": Asked(
        "What do five papers leave open?",
        "How claims were decided, what failed, and what we would ask the authors.",
    ),
}
LIMITS = (
    ("bytes of the file", "prune weights, and store what is left (ANP)", "04"),
    ("time for an image", "remove whole blocks or filters (ABP): zeros alone save no time", "05"),
    ("multiply-adds, and images differ", "gates that open what an image needs (MetaGater)", "07"),
    ("a network this small, and no larger", "a large teacher while it is trained (TSMD)", "06"),
    ("no gradient on the device", "prototypes: one pass over the five pictures", "01"),
    ("training tasks that may be broken", "losses by rank (HeTRoM)", "03"),
)


def chapters() -> dict[str, str]:
    """The files of the chapters by their numbers, as in the table of contents."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    parts = [part for part in toc["parts"] if part.get("caption") in ("Chapters", "Appendix")]
    names = [page["file"] for part in parts for page in part["chapters"]]
    return {name.partition("_")[0]: name for name in names}


def number(name: str) -> str:
    """What a chapter is counted as."""
    return name.partition("_")[0].lstrip("0")


def file_of(name: str) -> Path:
    """The source of a chapter, or of an appendix without code."""
    notebook = ROOT / "book" / f"{name}.ipynb"
    return notebook if notebook.is_file() else notebook.with_suffix(".md")


def title(name: str) -> str:
    """Number and title of a chapter."""
    said = re.search(r'^(?:\s*")?# (.+?)(?:\\n)?"?,?$', file_of(name).read_text("utf-8"), re.M)
    return f"{number(name)}\u00a0{said[1]}"


def answered(report: Report, where: str) -> str:
    """What the first claim of a study says, in a sentence."""
    return sentence(report.claims()[0], len(report.study.seeds), where)


def sentence(finding: Finding, trainings: int, where: str) -> str:
    """Yes or no, with the effect in points and its interval over trainings."""
    if (effect := finding.effect) is None:
        return RUNNING
    number = f"{100 * effect.mean:+.1f} ± {100 * effect.over_seeds:.1f} points".replace("-", "−")
    said = ", ".join(filter(None, (number, f"{trainings} trainings", where)))
    return f"{YES_OR_NO[finding.verdict]}: {said}."


def questions(link: Callable[[str], str], found: dict[str, Report] | None = None) -> str:
    """The table of questions; ``link`` makes a chapter's file a link."""
    found = reports() if found is None else found
    rows = []
    for short, name in chapters().items():
        asked = QUESTIONS[short]
        said = answered(found[asked.study], asked.answer) if asked.study else asked.answer
        rows.append([link(name), asked.question, said])
    return table(["chapter", "question", "answer"], rows)


def limits(link: Callable[[str], str]) -> str:
    """The table of limits."""
    names = chapters()
    rows = [[limit, take, link(names[short])] for limit, take, short in LIMITS]
    return table(["my limit is", "take", "chapter"], rows)


def generated() -> dict[str, str]:
    """The parts of the book's first page."""

    return {
        "questions": questions(lambda name: f"[{title(name)}]({file_of(name).name})"),
        "limits": limits(lambda name: f"[{number(name)}]({file_of(name).name})"),
    }


def for_readme() -> dict[str, str]:
    """The same, with links to the site, and to Colab."""
    slug = set_repository.slug_of(set_repository.current(ROOT))
    site = set_repository.site(slug)

    def link(name: str) -> str:
        page, file = f"[{title(name)}]({site}/{name}.html)", file_of(name)
        colab = f"https://colab.research.google.com/github/{slug}/blob/main/book/{file.name}"
        return f"{page} [▶]({colab})" if file.suffix == ".ipynb" else page

    return {
        "questions": questions(link),
        "limits": limits(lambda name: f"[{number(name)}]({site}/{name}.html)"),
    }


def written(text: str, parts: dict[str, str]) -> str:
    """The README with these parts between their marks."""
    for name, part in parts.items():
        begin = BEGIN.format(name)
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        text, found = between.subn(lambda _, b=begin, p=part: f"{b}\n\n{p}\n\n{END}", text)
        if found != 1:
            raise ValueError(f"the README needs one {begin} before an {END}, it has {found}")
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(written(readme.read_text("utf-8"), for_readme()), "utf-8")
    print(readme)
