"""ABP on CIFAR-10, ResNet-20, ratio 0.4, and filters on top: the study on one GPU.

    METALEARN_TUT_DATA=folder python tools/paper_scale/abp.py pilot --device cuda
    METALEARN_TUT_DATA=folder python tools/paper_scale/abp.py study --device cuda

The pilot tries three rates for every arm, with one seed, on validation images; the study takes
what it chose (`first` is what it can begin with meanwhile). `metalearn_tut/claims/abp/design.py`
says what an arm is and how long it is trained, `criteria.py` beside it when a claim holds. Several
trainings share a GPU (`--at-once`), in half precision; what is done is kept, and the same command
goes on. With `--tiny` all of it takes minutes on a processor and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn_tut.claims import Job
from metalearn_tut.claims.abp import design
from metalearn_tut.claims.records import record_of
from metalearn_tut.claims.turns import run_in_turns

PILOT_SEED = 100
EPOCHS = {"pilot": 5, "first": 14, "study": 14}
SMALL = {"train": 200, "validation": 50, "test": 100}


def base_of(given: argparse.Namespace) -> dict[str, Any]:
    """What is trained, where, and on how many images."""
    base = {**design.CIFAR, "device": given.device}
    if given.tiny:
        base |= {"data": {"name": "cifar10", **SMALL}, "batch": 20, "depth": 20}
    return base


def pilot_jobs(base: dict[str, Any], epochs: int) -> list[Job]:
    """The pilot has half of the training images."""
    half = {**base["data"], "train": base["data"]["train"] // 2}
    parts = design.pilot({**base, "data": half}, epochs, PILOT_SEED)
    return [job for part in parts for job in part]


def first_jobs(base: dict[str, Any], epochs: int, seeds: Sequence[int]) -> list[Job]:
    """Those of the study that do not depend on what the pilot chooses."""
    jobs = design.study(base, epochs, seeds, dict.fromkeys(design.TUNED, 1.0))
    return [job for job in jobs if not needs(job)]


def needs(job: Job) -> set[str]:
    """The jobs from which one goes on."""
    return {job.config[how]["job"] for how in ("after", "taught") if how in job.config}


def main() -> None:
    """Run what is missing of the pilot or of the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=EPOCHS)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_scale/abp"))
    parser.add_argument("--tiny", action="store_true", help="try everything out in minutes")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at a time")
    parser.add_argument("--epochs", type=int, help="of a first training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    start, choice = time.monotonic(), given.out / "chosen.json"
    epochs = 1 if given.tiny else given.epochs or EPOCHS[given.part]
    if given.part == "pilot":
        jobs = pilot_jobs(base_of(given), epochs)
    elif given.part == "first":
        jobs = first_jobs(base_of(given), epochs, given.seeds)
    else:
        factors = json.loads(choice.read_text())["factors"]
        jobs = design.study(base_of(given), epochs, given.seeds, factors)
    for name, why in run_in_turns(jobs, given.out, needs, given.at_once).items():
        print(f"failed: {name}: {why}")
    records = {job.name: record_of(job, given.out) for job in jobs}
    values = {name: record["values"]["values"] for name, record in records.items() if record}
    missing = set(records) - set(values)
    if given.part == "pilot" and not missing:
        chosen = {"factors": design.chosen(values, PILOT_SEED)}
        shares = {name: value["validation"] for name, value in values.items()}
        chosen |= {"validation": shares, "seconds": time.monotonic() - start}
        choice.write_text(json.dumps(chosen, indent=1))
        print(json.dumps(chosen))


if __name__ == "__main__":
    main()
