"""The README's table of chapters says what the chapters and the results say."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ROWS = {
    path: (float(minutes), said)
    for path, minutes, said in re.findall(
        r"^\| \[[^]]+\]\(book/(\w+)\.ipynb\) \[▶\]\(\S+\) \| ([\d.]+) \| (.+) \|$", README, re.M
    )
}


def values(study, claim):
    path = ROOT / "results" / "claims" / "first_round.json"
    return json.loads(path.read_text("utf-8"))[study]["claims"][str(claim)]["values"]


def gap(difference):
    return f"{difference['mean']:+.3f} ± {difference['over_tasks']:.3f}"


def numbers(said):
    return re.findall(r"[+-]?\d\.\d+ ± \d\.\d+", said)


def test_every_chapter_has_a_row_and_a_link_to_colab():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    parts = [part for part in toc["parts"] if part.get("caption") in ("Chapters", "Appendix")]
    pages = [page["file"] for part in parts for page in part["chapters"]]
    listed = [name for name in pages if (ROOT / "book" / f"{name}.ipynb").is_file()]
    assert list(ROWS) == listed
    for name in listed:
        assert README.count(f"/blob/main/book/{name}.ipynb") == 1


@pytest.mark.parametrize("name", ROWS)
def test_a_chapter_takes_as_long_as_it_says(name):
    title = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells[0].source
    seconds = int(re.search(r"CPU · about (\d+) s", title)[1])
    assert ROWS[name][0] == pytest.approx(seconds / 60, abs=0.051)


def test_the_differences_are_those_on_record():
    noisy, clean = values("hetrom", 1)["labels-0.5"], values("hetrom", 3)
    hetrom = [gap(noisy["hetrom - mean"]), gap(clean["hetrom - mean"])]
    assert numbers(ROWS["03_rank_losses"][1]) == hetrom
    one, five = values("anp", 1)["conv64"], values("anp_second", 1)["conv64_5shot"]
    anp = [gap(one["conv64-anp - dense"]), gap(five["anp - dense"])]
    assert numbers(ROWS["04_anp_saliency"][1]) == anp
    assert numbers(ROWS["05_abp_block_voting"][1]) == [
        gap(values("abp", 2)["0.4"]["abp - unpruned"])
    ]
    assert values("abp", 3)["scratch"]["abp - other"]["mean"] < 0
    more = values("tsmd", 6)["1-shot"]["teacher - alone"]
    tsmd = [gap(values("tsmd", 1)["1-shot"]["tsmd - student"]), gap(more)]
    assert numbers(ROWS["06_tsmd_distillation"][1]) == tsmd
    gated, said = values("metagater", 1)["10"], ROWS["07_metagater_federated_gates"][1]
    assert numbers(said) == [gap(gated["gated - dense"])]
    assert said.startswith(f"{gated['macs']['gated-0.5']:.2f} of the multiply-adds")
    pruned = values("compact", 1)["gap"]
    assert numbers(ROWS["08_compact_learners"][1]) == [gap(pruned)]


def test_the_shipped_learner_is_the_one_of_chapter_2():
    path = ROOT / "results" / "pretrained" / "glyphs_5way_1shot.json"
    found = json.loads(path.read_text("utf-8"))["values"]["support"]
    assert numbers(ROWS["02_bilevel_maml"][1]) == [
        f"{found['mean']:.3f} ± {found['half_width']:.3f}"
    ]
