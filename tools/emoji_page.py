"""What the emoji are, in tables, as MyST Markdown: ``python tools/emoji_page.py`` prints it.

``book/_ext/results_in_pages.py`` puts each part into the page ``emoji`` where the page has the mark
``% from results: PART``, each time the book is built. The tables come from the package's index and
``results/emoji/``, where a file with rows of its own adds its methods to those of the baselines.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks_text import table
from claims_text import folded

from metalearn_tut import tasks
from metalearn_tut.claims.statistics import student_quantile
from metalearn_tut.tasks.emoji.index import EmojiClass, read_index
from metalearn_tut.tasks.emoji.splits import read_splits, split_of
from metalearn_tut.tasks.source import SPLITS

ROOT = Path(__file__).parents[1]
_KINDS = {
    ("class", False): "new things",
    ("class", True): "new things, query by another artist",
    ("artist", False): "new artists",
    ("both", False): "new things by new artists",
}


def artists() -> str:
    """Who drew, under which license, and how many drawings of each split's classes."""
    index = read_index()
    splits = [split_of(of) for of in index.classes]
    rows = []
    for s, of in enumerate(index.sets):
        count = Counter(
            split for split, c in zip(splits, index.classes, strict=True) if s in c.sets
        )
        counts = [str(count[split]) for split in SPLITS]
        who = f"[{of.artist}]({of.source}), {of.author}"
        rows.append([f"`{of.house}`", who, f"[{of.license}]({of.license_url})", *counts])
    totals = [f"{len(tasks.emoji(split).images):,}" for split in SPLITS]
    rows.append(["", "all", "", *totals])
    return table(["house", "set, by whom", "license", *SPLITS], rows)


def licenses() -> str:
    """The notices of ``LICENSE-DATA``, folded; the long text of one license is in the file."""
    notices = (ROOT / "LICENSE-DATA").read_text("utf-8").split("\n\n4. The text of")[0]
    return "\n".join(folded("Notices", ["```text", notices.strip(), "```"])).strip()


def groups() -> str:
    """How many classes of Unicode's groups each split has."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for of in read_index().classes:
        counts[of.group][split_of(of)] += 1
    rows = [[group, *(str(count[split]) for split in SPLITS)] for group, count in counts.items()]
    every = sum(counts.values(), Counter())
    rows.append(["all", *(str(every[split]) for split in SPLITS)])
    return table(["group", *SPLITS], rows)


def subgroups() -> str:
    """Which subgroups each split has, with their numbers of classes; the classes, folded."""
    of_split: dict[str, dict[str, list[EmojiClass]]] = {split: {} for split in SPLITS}
    for of in read_index().classes:
        of_split[split_of(of)].setdefault(of.subgroup, []).append(of)
    lines: list[str] = []
    for split, subs in of_split.items():
        inside = [
            f"- {sub} ({len(of)}): {', '.join(c.name for c in of)}" for sub, of in subs.items()
        ]
        lines += folded(f"{split}: {len(subs)} subgroups", inside)
    return "\n".join(lines).strip()


def splits() -> str:
    """What each way to split leaves: classes and drawings, houses."""
    rows = []
    for split_by in ("class", "artist", "both"):
        for split in SPLITS:
            source = tasks.emoji(split, split_by=split_by)
            who = "all" if split_by == "class" else ", ".join(read_splits()["houses"][split])
            sizes = sorted({len(of) for of in source.rows})
            per = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            count = [f"{source.n_classes}", f"{len(source.images):,}", per]
            rows.append([f"`{split_by}`", split, who, *count])
    return table(["`split_by`", "split", "houses", "classes", "drawings", "of a class"], rows)


def accuracies(root: Path = ROOT) -> str:
    """Accuracy of every method of ``results/emoji/``, a column for each number of ways.

    The interval is over tasks where there is one training, and over trainings where there are more.
    """
    found: dict[tuple[str, str], dict[int, list[dict[str, float]]]] = {}
    for file in sorted((root / "results" / "emoji").glob("*.json")):
        for row in json.loads(file.read_text("utf-8"))["values"]["rows"]:
            key = _KINDS[row["split_by"], row["cross_artist"]], row["method"]
            found.setdefault(key, {}).setdefault(row["ways"], []).append(row)
    order = list(_KINDS.values())
    rows = [
        [kind, _named(method, ways), *(_shown(ways.get(n, [])) for n in (5, 20))]
        for (kind, method), ways in sorted(found.items(), key=lambda item: order.index(item[0][0]))
    ]
    return table(["test tasks", "method", "5-way 1-shot", "20-way 1-shot"], rows)


def _named(method: str, ways: Mapping[int, list[Any]]) -> str:
    trainings = max(map(len, ways.values()))
    name = f"`{method}`" if "_" in method else method
    return name if trainings == 1 else f"{name}, {trainings} trainings"


def _shown(trainings: list[dict[str, float]]) -> str:
    if not trainings:
        return ""
    mean, half_width = trainings[0]["accuracy"], trainings[0]["half_width"]
    if len(trainings) > 1:
        values = [row["accuracy"] for row in trainings]
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        half_width = student_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return f"{mean:.3f} ± {half_width:.3f}"


def left_out() -> str:
    """What was left out by hand, with the reasons."""
    with (ROOT / "tools" / "emoji_data" / "left_out.csv").open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    by_reason: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_reason[row["reason"]].append(row["what"] + (f" of {row['set']}" if row["set"] else ""))
    lines = [f"- {', '.join(what)}: {reason}" for reason, what in by_reason.items()]
    return "\n".join(folded(f"{len(rows)} entries", lines)).strip()


def generated() -> dict[str, str]:
    """Every part of the page by its name."""
    parts = (artists, licenses, groups, subgroups, splits, accuracies, left_out)
    return {part.__name__: part() for part in parts}


if __name__ == "__main__":
    print("\n\n".join(generated().values()))
