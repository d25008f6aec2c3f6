"""What the scripts beside this one have in common: options, the run, and the file it ends in."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metalearn_tut.claims import Job
from metalearn_tut.claims.runner import run_jobs
from metalearn_tut.files.provenance import write_result

RESULTS = Path(__file__).parents[2] / "results" / "paper_scale"
MAML = {
    "name": "maml",
    "inner_lr": 0.01,
    "inner_steps": 5,
    "rate_mode": "per_layer_and_step",
}
Values = dict[str, dict[str, Any]]
Jobs = Callable[[Any, str, bool], list[Job]]
Summary = Callable[[Values, Sequence[Job]], dict[str, Any]]


def engine(device: str) -> str:
    """The fastest way to meta-gradients on this device."""
    return "vectorised" if device == "cuda" else "functional"


def options(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all scripts have; ``doc`` is the script's own docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_scale") / name)
    parser.add_argument("--tiny", action="store_true", help="try everything out in minutes")
    return parser


def complete(
    name: str,
    jobs: Jobs,
    what: Any,
    summary: Summary,
    given: argparse.Namespace,
    part: str = "",
    **more: Any,
) -> None:
    """Run what is missing of a script's jobs, then write what came out.

    Parameters
    ----------
    name : str
        The file, without its ending. A tiny run's is in ``given.out``.
    jobs : callable
        ``(what, device, tiny) -> jobs``.
    what : JSON
        Which jobs: the shots, the seeds, ...
    summary : callable
        ``(values, jobs) -> dict`` of what the jobs' values amount to.
    given : Namespace
        The options.
    part : str, default ""
        The folder of these jobs in ``given.out``, if not that itself.
    **more
        What else is written beside the summary.
    """
    arguments = (what, given.device, given.tiny)
    todo = jobs(*arguments)
    outcome = run_jobs(todo, given.out / part)
    if outcome.failed:
        raise SystemExit(f"failed: {outcome.failed}")
    values = {name: record["values"]["values"] for name, record in outcome.records.items()}
    path = (given.out if given.tiny else RESULTS) / f"{name}.json"
    config = {"arguments": arguments, "jobs": {job.name: job.config for job in todo}}
    write_result(path, config=config, values={**summary(values, todo), "jobs": values, **more})
    print(f"written to {path}")


def stale(path: Path, jobs: Jobs, summary: Summary) -> str | None:
    """Why a file is not what its script would write of the same values; None if it is."""
    try:
        result = json.loads(path.read_text("utf-8"))
        arguments, was = (result["config"][part] for part in ("arguments", "jobs"))
        found = result["values"]["jobs"]
    except (ValueError, KeyError, TypeError):
        return f"{path} is damaged"
    todo = jobs(*arguments)
    now = {job.name: job.config for job in todo}
    changed = sorted(n for n in {**was, **now} if was.get(n) != now.get(n))
    if changed:
        return f"{path} is of another configuration (job {', '.join(changed)})"
    again = json.loads(json.dumps(summary(found, todo)))
    changed = sorted(part for part in again if result["values"].get(part) != again[part])
    return f"{path} is not what its jobs amount to ({', '.join(changed)})" if changed else None
