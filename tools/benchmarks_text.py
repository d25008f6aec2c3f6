"""Words, numbers and tables of the page about speed; ``benchmarks_page.py`` puts them together."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from claims_text import commits, plain

NOT_YET = "not measured yet"
PEERS = {  # how each is written, and its color among those of the book's figures
    "higher": ("`higher`", 0),
    "learn2learn": ("learn2learn", 1),
    "torchopt": ("TorchOpt", 2),
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Examples
    --------
    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Three digits, in milliseconds, or in seconds from one second on.

    Examples
    --------
    >>> milliseconds(0.08173), milliseconds(0.5), milliseconds(2.345)
    ('81.7 ms', '500 ms', '2.35 s')
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def span(values: Sequence[float]) -> str:
    """One number, or from the least to the most.

    Examples
    --------
    >>> span([2.04, 1.56, 2.0]), span([2.001, 1.999])
    ('1.56 to 2.04', '2.00')
    """
    low, high = (f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def short(case: str) -> str:
    r"""The name of a case in a narrow column, its parts each on one line.

    Examples
    --------
    >>> ascii(short("Conv4-32, 28x28, 1-shot, 5 inner steps"))
    "'Conv4\\u201132, 28\\xd728, 1\\u2011shot, 5\\xa0steps'"
    """
    plainer = re.sub(r"(?<=\d)x(?=\d)", "\u00d7", case.replace("inner ", "").replace("-", "\u2011"))
    return re.sub(r"(\d) (step)", "\\1\u00a0\\2", plainer)


def cells(found: Mapping[str, Sequence[float]], shown: Callable[[float], str]) -> list[str]:
    """The medians of the package and of each peer; empty where there is none."""
    middle = {side: shown(statistics.median(times)) for side, times in found.items()}
    return [middle.get(side, "").replace(" ", "\u00a0") for side in ("package", *PEERS)]


def faster(found: Mapping[str, Any]) -> str:
    """How many times as fast as the fastest peer, and the spread over the rounds."""
    if not found.get("fastest_peer"):
        return ""
    each = found["times_faster_than"][found["fastest_peer"]]
    least, most = (f"{each[name]:.2f}" for name in ("least", "most"))
    spread = f" ({least}\u2013\u2060{most})" if least != most else ""
    return f"{each['of_medians']:.2f}{spread}"


def peaks(case: Mapping[str, Any], when: str = "peak") -> dict[str, float]:
    """The most memory that each side held in any round, in MB; or ``before`` its first step."""
    return {side: max(r[when] for r in rounds) for side, rounds in case["megabytes"].items()}


def limit(far: Mapping[str, Any]) -> str:
    """How far a step is from the peak of the machine."""
    peak = far["machine"]
    rows = [
        [
            *(short(name), f"{case['operations'] / 1e9:.1f}", milliseconds(case["seconds"])),
            f"{100 * case['share']:.0f}\u00a0%",
        ]
        for name, case in far["cases"].items()
    ]
    head = ["a step", "billion operations in convolutions and products", "time", "of the peak"]
    best = max(peak["product, operations a second"], peak["convolution, operations a second"])
    return (
        f"The machine does {best / 1e9:.0f} billion operations a second in a large product or "
        f"convolution, and moves {peak['copy, bytes a second'] / 1e9:.0f} GB a second in a copy:"
        f"\n\n{table(head, rows)}"
    )


def circumstances(name: str, result: Mapping[str, Any]) -> str:
    """A list item: when, where and with what a benchmark was run."""
    used = {**result["versions"], **result["config"].get("peers", {})}
    versions = ", ".join(f"{package} {version}" for package, version in used.items())
    where = f"{result['date']}, {plain(result['device'])}, commit {commits([result['commit']])}"
    return f"* `{name}.json`: {where}; {plain(versions)}"
