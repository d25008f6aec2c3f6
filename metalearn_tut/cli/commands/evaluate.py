"""What ``metalearn-tut evaluate`` does."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metalearn_tut import runs, tasks
from metalearn_tut.cli.checks import check_file, check_root, device_of
from metalearn_tut.cli.commands.shared import check_ways, path_of, sampler_for, set_threads
from metalearn_tut.cli.options import Evaluate
from metalearn_tut.evaluation.accuracy import evaluate as measure
from metalearn_tut.evaluation.intervals import interval
from metalearn_tut.files import provenance
from metalearn_tut.gating.evaluation import Watched, is_gated
from metalearn_tut.tasks import TaskSampler


def evaluate(o: Evaluate, arguments: Sequence[str]) -> None:
    """Measure a trained learner, print the result and write it to a file."""
    set_threads(o.threads)
    if o.json:
        check_file("--json", o.json)
    path = path_of(o.run)
    config = runs.load_config(path)
    learner = runs.load_learner(path, device_of(o.device))
    if o.norm:
        learner.model.norm = o.norm
    if o.steps is not None and not hasattr(learner, "inner_steps"):
        raise ValueError(f"--steps {o.steps}: {config['algorithm']['name']} takes no inner steps")
    sampler = _sampler(o, config)
    check_ways(learner, sampler[0].ways)
    n_tasks = min(o.tasks, len(sampler)) if hasattr(sampler, "__len__") else o.tasks
    learner = Watched(learner) if is_gated(learner) else learner
    result = measure(learner, sampler, n_tasks, steps=o.steps, workers=o.workers, progress=True)
    print(f"{result}\n{result.sampler}")
    values = result.to_dict()
    if is_gated(learner):
        mean, half = interval(torch.tensor(sorted(learner.shares), dtype=torch.float64))
        values["active_macs"] = {"mean": mean, "half_width": half}
        print(f"{mean:.4f} ± {half:.4f} of the multiply-adds are done for an image, as deployed")
    if o.json:
        command = shlex.join(["metalearn-tut", *arguments])
        provenance.write_result(
            o.json, config={"command": command, "trained": config}, values=values
        )


def _sampler(o: Evaluate, config: Mapping[str, Any]) -> TaskSampler:
    if o.data != "omniglot_runs":
        of_data = {"rotations": o.rotations, "within_group": o.within_group}
        return sampler_for(config, o, o.queries, **of_data)
    if o.root is None:
        raise ValueError("--data omniglot_runs needs --root: the folder or zip of the runs")
    check_root(o.data, o.root)
    return tasks.omniglot_runs(o.root, size=config["model"].get("image_size", 28))
