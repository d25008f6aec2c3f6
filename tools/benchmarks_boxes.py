"""The folded tables of the page about speed; ``benchmarks_page.py`` puts them together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks_text import milliseconds, peaks, short

if TYPE_CHECKING:
    from benchmarks_page import Results

Box = tuple[str, list[str], list[list[str]]]
"""A title, and the head and the rows of a table."""


def engines(results: Results) -> Iterator[Box]:
    """Each case's engines and networks, where they were run."""
    head = ["side", "time of a step", "difference of gradients: float64, float32"]
    for name, case in results.cases().items():
        if case["seconds"].get("package, one thread") is not None:
            gaps, rows = case["differences"], []
            for side, seconds in case["seconds"].items():
                own = gaps.get(side)  # other means alone make no other gradient
                gap = f"{own['float64']:.0e}, {own['float32']:.0e}" if own else ""
                rows.append([side, milliseconds(statistics.median(seconds)), gap])
            yield f"Engines and networks: {name}", head, rows


def megabytes(results: Results) -> Iterator[Box]:
    """Each case's memory."""
    for name, case in results.equal("memory").items():
        peak, before = peaks(case), peaks(case, "before")
        rows = [[side, f"{before[side]:.0f} MB", f"{peak[side]:.0f} MB"] for side in peak]
        yield f"Memory: {name}", ["side", "before the first step", "at most"], rows


def single_tables(results: Results) -> Iterator[Box]:
    """Benchmarks of one table each."""
    if (started := results.values("start_up")) is not None:
        middle = {name: statistics.median(each) for name, each in started["seconds"].items()}
        rows = [[f"`{name}`", f"{each:.2f} s"] for name, each in middle.items()]
        yield "Imports and the command line", ["start", "time"], rows
    if one := results.equal("one_task"):
        rows = [[name, f"{statistics.median(r):.0f}"] for name, r in one["sampling"].items()]
        yield "Drawing tasks", ["tasks", "per second, one thread"], rows
    if (scoring := results.values("saliency")) is not None:
        rows = [
            [name, f"{statistics.median(found['scoring_seconds']):.1f} s", f"{found['ratio']:.0f}"]
            for name, found in scoring.items()
        ]
        head = ["ANP's scores of 20 tasks", "time", "inverse Hessians: times as fast as updates"]
        yield "Scoring weights for pruning", head, rows
    if (books := results.load("benchmarks/notebooks.json")) is not None:
        costs, budget = books["values"]["notebooks"], books["config"]["budget"]
        rows = [[name, f"{cost['ratio']:.0f}"] for name, cost in costs.items()]
        head = ["notebook", f"pieces of work, each about a second; {budget:.0f} are allowed"]
        yield "What the notebooks cost", head, rows
    if (gated := results.values("gated")) is not None:
        rows = [[short(name), f"{r['macs']:.2f}", f"{r['time']:.2f}"] for name, r in gated.items()]
        head = ["images, share of filters open", "multiply-adds", "time"]
        yield "Gated inference, relative to no gates", head, rows
    if (device := results.values("on_device")) is not None:
        rows = [
            [f"`{name}`", n, *(f"{took[side]:.1f} ms" for side in ("onnxruntime", "torch"))]
            for name, found in device.items()
            for n, took in found["milliseconds"].items()
        ]
        head = ["learner", "threads", "its file in onnxruntime", "in PyTorch"]
        yield "Learning a task and answering", head, rows
