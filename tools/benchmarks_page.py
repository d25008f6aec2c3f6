"""What the benchmarks measured, as MyST Markdown: ``python tools/benchmarks_page.py`` prints it.

``book/_ext/results_in_pages.py`` puts each part into the page ``benchmarks`` where the page has
the mark ``% from results: PART``, each time the book is built. All of it comes from ``results/``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks_boxes import engines, megabytes, single_tables
from benchmarks_figure import bars
from benchmarks_text import (
    NOT_YET,
    PEERS,
    cells,
    circumstances,
    faster,
    limit,
    milliseconds,
    peaks,
    short,
    span,
    table,
)
from claims_text import folded, plain

ROOT = Path(__file__).parents[1]
EQUAL, SHOWN, SMALL, LARGE = 1.5, 2.0, 1.2, 1.5  # the goals, set before what they are of
SECONDS, GPU = 60.0, 10.0
GOALS = (
    f"a meta-training step, one process on two CPU cores: {EQUAL:g} times as fast as the fastest "
    f"peer with equal means, {SHOWN:g} times as READMEs show, with at most {SMALL:g} times the "
    f"memory ({LARGE:g} times at 84\u00d784)",
    f"90 % validation accuracy on the book's characters: within {SECONDS:g} seconds on two cores",
    f"a meta-training step of many tasks on a GPU: {GPU:g} times as fast as `higher`",
)
Result = dict[str, Any]


class Results:
    """The files of ``results/``; one that is not there yet is None."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self, path: str) -> Result | None:
        """A whole file."""
        file = self.root / "results" / path
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def values(self, name: str) -> Any:
        """What came out of a benchmark, or None."""
        found = self.load(f"benchmarks/{name}.json")
        return found and found["values"]

    def equal(self, name: str) -> dict[str, Any]:
        """The same of a benchmark in which all sides have equal means; nothing of older ones."""
        found = self.load(f"benchmarks/{name}.json")
        return found["values"] if found and found["config"].get("equal") else {}

    def cases(self) -> dict[str, Result]:
        """The cases of the meta-training step in which a peer was measured."""
        found = self.equal("meta_training").get("cases", {})
        return {name: case for name, case in found.items() if case["fastest_peer"]}


def ratios(cases: dict[str, Result], means: str = "equal") -> list[float]:
    """In each case, how many times as fast as the fastest peer, with equal means or as shown."""
    found = [case if means == "equal" else case["as_shown"] for case in cases.values()]
    return [each["times_faster_than"][each["fastest_peer"]]["of_medians"] for each in found]


def more_memory(results: Results) -> dict[str, float]:
    """In each case, the package's memory over that of the peer that needs least."""
    found = {}
    for name, case in results.equal("memory").items():
        peak = peaks(case)
        if there := [peak[peer] for peer in PEERS if peer in peak]:
            found[name] = peak["package"] / min(there)
    return found


def answer(results: Results) -> str:
    """Three sentences for someone who chooses."""
    cases, memory = results.cases(), more_memory(results)
    said = [f"How fast a meta-training step is beside the peers was {NOT_YET}."]
    if cases:
        needs = f", with {span([*memory.values()])} times the memory" if memory else ""
        said = [
            f"In one process on two CPU cores, a meta-training step of MAML is "
            f"{span(ratios(cases))} times as fast as with the fastest of the peers when all keep "
            f"their memory, {span(ratios(cases, 'shown'))} times as READMEs show it, at the same "
            f"gradients{needs}."
        ]
    reached = results.equal("accuracy").get("seconds", {})
    ours, theirs = to_goal(reached, ["package"]), to_goal(reached, PEERS)
    if ours is None:
        said.append(f"How long training takes to 90 % accuracy was {NOT_YET}.")
    else:
        peers = f"; with the fastest peer {theirs:.0f}" if theirs is not None else ""
        said.append(
            "From the start of the program to 90 % of unseen characters named right after one "
            f"example of each it takes {ours:.0f} seconds{peers}."
        )
    gpu = on_gpu(results)
    said.append(
        f"On a GPU it was {NOT_YET}."
        if gpu is None
        else f"On a GPU, many tasks at once are up to {gpu:.1f} times as fast as `higher`."
    )
    return " ".join(said)


def to_goal(seconds: dict[str, list[float | None]], sides: Sequence[str]) -> float | None:
    """Median seconds of the fastest of these sides that reached the goal every time."""
    whole = [seconds[side] for side in sides if side in seconds and None not in seconds[side]]
    return min((statistics.median(each) for each in whole), default=None)


def on_gpu(results: Results) -> float | None:
    """The most that all tasks at once are faster than `higher`."""
    values = results.values("many_tasks_cuda") or {}
    rows = [row for case in values.values() for row in case["tasks"].values()]
    return max((row["times_faster_than"]["higher"]["of_medians"] for row in rows), default=None)


def goals(results: Results) -> str:
    """The goals, and whether they were met."""
    cases, memory = results.cases(), more_memory(results)
    seconds = to_goal(results.equal("accuracy").get("seconds", {}), ["package"])
    gpu = on_gpu(results)
    verdicts = [NOT_YET] * 3
    if cases:
        equal = sum(each >= EQUAL for each in ratios(cases))
        shown = sum(each >= SHOWN for each in ratios(cases, "shown"))
        lean = sum(each <= (LARGE if "84x84" in name else SMALL) for name, each in memory.items())
        met = equal == shown == len(cases) and lean == len(memory) > 0
        verdicts[0] = f"{'met' if met else 'not met'}: of {len(cases)} cases {equal} with equal "
        verdicts[0] += f"means and {shown} as READMEs show; {lean} of {len(memory)} in memory"
    if seconds is not None:
        verdicts[1] = f"{'met' if seconds <= SECONDS else 'not met'}: {seconds:.0f} seconds"
    if gpu is not None:
        verdicts[2] = f"{'met' if gpu >= GPU else 'not met'}: {gpu:.1f} times at most"
    return "\n".join(
        f"* {goal}: **{verdict}**" for goal, verdict in zip(GOALS, verdicts, strict=True)
    )


def under(heading: str, rows: list[list[str]]) -> list[list[str]]:
    """The rows below one of their own that says what they are."""
    return [[f"**{heading}**", *[""] * (len(rows[0]) - 1)], *rows] if rows else []


def timed(cases: dict[str, Result]) -> list[list[str]]:
    """A row for each case: its name, everybody's time, and how many times as fast."""
    return [
        [
            *(short(name), *cells(case["seconds"], milliseconds), faster(case)),
            faster(case.get("as_shown", {})),
        ]
        for name, case in cases.items()
    ]


def overview(results: Results) -> str:
    """The table: what, the package, each peer, and how many times as fast."""
    rows = timed(results.cases())
    memory = [
        [short(name), *cells({s: [m] for s, m in peaks(case).items()}, "{:.0f} MB".format), "", ""]
        for name, case in results.equal("memory").items()
    ]
    one = results.equal("one_task")
    rows += under("its memory", memory) + under("adaptation", timed(one.get("adaptation", {})))
    if evaluated := one.get("evaluation"):
        seconds = cells(evaluated["seconds"], "{:.1f} s".format)
        rows.append(["**evaluation of 600 tasks**", *seconds, faster(evaluated), ""])
    if accuracy := results.equal("accuracy"):
        seconds = {s: found for s, found in accuracy["seconds"].items() if None not in found}
        rows.append(["**90 % accuracy**", *cells(seconds, "{:.0f} s".format), faster(accuracy), ""])
    titles = [title for title, _ in PEERS.values()]
    head = ["meta-training step", "this package", *titles, "times as fast", "as READMEs show"]
    return table(head, rows) if rows else f"This was {NOT_YET}: `make bench` does."


def more(results: Results) -> str:
    """What workers in threads, and processes, add to one worker: time and memory."""
    cases, memory = results.cases(), results.equal("memory")
    sides = {
        "package, one worker": "one worker",
        "package": "workers",
        "package, two processes": "two processes",
    }
    rows = []
    for name, case in cases.items():
        found = [milliseconds(statistics.median(case["seconds"][side])) for side in sides]
        peak = peaks(memory[name]) if name in memory else {}
        held = [f"{peak[side]:.0f} MB" if side in peak else "" for side in sides]
        rows.append([short(name), *(cell.replace(" ", "\u00a0") for cell in (*found, *held))])
    head = ["meta-training step", *sides.values(), *(f"memory: {n}" for n in sides.values())]
    return table(head, rows) if rows else f"What they add was {NOT_YET}."


def figure(results: Results) -> str:
    """Bars of the ratios, as an image within the page."""
    cases = results.cases()
    if not cases:
        return f"The figure was {NOT_YET}."
    alt = (
        f"Bars for {len(cases)} cases and each peer: the time of the peer over the time of this "
        f"package. Against the fastest they reach {span(ratios(cases))}; the goal is {EQUAL:g}."
    )
    caption = (
        "Time of a meta-training step with each peer over the time with this package, with equal "
        "means. A bar is the "
        "ratio of the medians, the line on it the least and the most of all rounds. Dashed: the "
        "goal."
    )
    image = bars({short(name): case["times_faster_than"] for name, case in cases.items()}, EQUAL)
    lines = (f"```{{figure}} {image}", ":name: fig-beside-peers", f":alt: {alt}", "", caption)
    return "\n".join((*lines, "```"))


def peers(results: Results) -> str:
    """Which peers install, and what was done about those that do not."""
    installed = results.values("installation")
    if installed is None:
        return f"Which of them install was {NOT_YET}."
    rows = []
    for name, (title, _) in PEERS.items():
        found = installed[name]
        error = f"does not install: `{found['error']}`"
        rows.append([title, f"installs: {found['version']}" if found["version"] else error])
    return table(["peer", "`pip install`, Python of this page"], rows)


def limits(results: Results) -> str:
    """Where the time goes, and what was tried."""
    said = []
    shares = results.values("where_time_goes")
    if shares is None:
        said.append(f"Where the time goes was {NOT_YET}.")
    else:
        parts = list(next(iter(shares.values())))
        rows = [
            [short(case), *(f"{100 * found[p]:.0f}\u00a0%" for p in parts)]
            for case, found in shares.items()
        ]
        said.append(table(["share of the processor's time", *parts], rows))
    if (far := results.values("limits")) is not None:
        said.append(limit(far))
    tried = json.loads((results.root / "benchmarks" / "tried.json").read_text("utf-8"))
    keys = ("change", "prediction", "outcome", "kept")
    rows = [[plain(str(each[key])) for key in keys] for each in tried]
    told = ["What was tried to make it faster:", table(list(keys), rows)] if rows else []
    return "\n\n".join([*said, *told])


def rest(results: Results) -> str:
    """What is of interest to fewer readers, folded."""
    names = sorted(path.stem for path in (results.root / "results" / "benchmarks").glob("*.json"))
    told = [circumstances(n, results.load(f"benchmarks/{n}.json")) for n in names]
    boxes = [*engines(results), *megabytes(results), *single_tables(results)]
    lines = [line for title, head, rows in boxes for line in folded(title, [table(head, rows)])]
    return "\n".join([*lines, *folded("Versions, dates and commits", told)])


PARTS: dict[str, Callable[[Results], str]] = {
    "answer": answer,
    "goals": goals,
    "table": overview,
    "more": more,
    "figure": figure,
    "peers": peers,
    "limits": limits,
    "rest": rest,
}


def generated(root: Path = ROOT) -> dict[str, str]:
    """Every part of the page, by the name that its mark has."""
    results = Results(root)
    return {name: part(results) for name, part in PARTS.items()}


if __name__ == "__main__":
    print("\n\n".join(generated().values()))
