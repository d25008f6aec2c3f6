"""What the scripts beside this one have in common: a study's jobs on a GPU, and its report.

Each is sized for about fifteen minutes of one GPU. Interrupted, the same command goes on; one file
a job lies in `results/paper_scale/NAME/jobs`. With `--tiny` all of it takes minutes on a processor,
measures nothing, and is kept in `runs/`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from metalearn_tut import claims
from metalearn_tut.claims import Job, Study
from metalearn_tut.claims.report import reproduce

RESULTS = Path(__file__).parents[2] / "results" / "paper_scale"
SEEDS = (0, 1, 2)
Jobs = Callable[[bool], list[Job]]


def study_of(study: Study, jobs: Jobs, arms: tuple[str, ...], data: str) -> Study:
    """A study at the paper's scale: the claims of another one on these arms, with these jobs."""
    shared = tuple(c for c in study.claims if c.arm in arms and c.rival in arms)
    scale = replace(study, name=f"{study.name}_scale", data=data, seeds=SEEDS, claims=shared)
    return replace(scale, jobs=jobs, pilots=list, reported=(), reported_seeds=None)


def at_84(paper: str, job: Callable[..., Job], arms: tuple[str, ...], device: str) -> Study:
    """A paper's claims and jobs about these arms, on mini-ImageNet at 84×84 on a device."""

    def jobs(tiny: bool) -> list[Job]:
        seeds, study = SEEDS[:1] if tiny else SEEDS, f"{paper}_scale"
        made = [job(study, "mini_imagenet_84", arm, seed, tiny) for seed in seeds for arm in arms]
        return [on_device(each, device) for each in made]

    return study_of(claims.load(paper), jobs, arms, "mini-ImageNet at 84×84, 5-way 1-shot")


def on_device(job: Job, device: str) -> Job:
    """The same job on another device; on a GPU all tasks of a step are adapted at once."""
    return replace(job, config=_moved(job.config, device))


def _moved(config: Any, device: str) -> Any:
    if not isinstance(config, dict):
        return config
    moved = {name: _moved(part, device) for name, part in config.items()}
    if "seed" in moved and ("algorithm" in moved or "plan" in moved):
        moved["device"] = device
    if moved.get("name") == "maml" and device != "cpu":
        moved["engine"] = "vectorised"
    return moved


def main(doc: str | None, study: Callable[[str], Study]) -> None:
    """Run what is missing of ``study(device)``, and print what it says."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_scale"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time")
    parser.add_argument("--tiny", action="store_true", help="try everything out in minutes")
    given = parser.parse_args()
    options = {"out": given.out, "results": given.results, "processes": given.processes}
    if not reproduce(study(given.device), quick=given.tiny, **options):
        raise SystemExit("some jobs failed: the same command does them again")
