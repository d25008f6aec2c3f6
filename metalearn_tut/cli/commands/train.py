"""What ``metalearn-tut train`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import runs
from metalearn_tut.cli.checks import check_new_run, check_root, device_of
from metalearn_tut.cli.commands.shared import (
    data_config,
    model_config,
    path_of,
    queries_for,
    set_threads,
)
from metalearn_tut.cli.launch import launch
from metalearn_tut.cli.options import Train
from metalearn_tut.runs.algorithms import TSMDOptions
from metalearn_tut.tasks import ClassSource, TaskSampler
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import History, meta_train


def train(o: Train, arguments: Sequence[str]) -> int:
    """Meta-train a learner, in as many processes as asked for."""
    if o.processes > 1 and "WORLD_SIZE" not in os.environ:
        return launch(o.processes, arguments)
    set_threads(o.threads)
    check_root(o.data, o.root)
    check_new_run(o.out, checkpoint.PRUNED)
    config, sampler, validation = _configured(o)
    torch.manual_seed(o.seed)
    learner = runs.build_learner(config, device_of(o.device))
    if first_process := os.environ.get("RANK", "0") == "0":
        count = sum(p.numel() for p in learner.meta_parameters().values())
        print(f"{o.algorithm.name} with {count:,} parameters to train on {sampler!r}", flush=True)
    history = meta_train(
        learner,
        sampler,
        **o.algorithm.outer_rates(o.outer_lr),
        steps=o.steps,
        tasks_per_step=o.tasks_per_step,
        schedule=o.schedule,
        clip=o.clip,
        validation=validation,
        validate_every=o.validate_every,
        validation_tasks=o.validation_tasks,
        out=o.out,
        resume=o.resume,
        save_every=o.save_every,
        config=config,
        workers=o.workers,
    )
    if first_process:
        print(_outcome(o.out, history))
    return 0


def _configured(o: Train) -> tuple[dict[str, Any], TaskSampler, TaskSampler | None]:
    """The run's configuration, the tasks that it trains on, and those that it is validated on."""
    data = data_config(
        o.data,
        rotations=o.rotations,
        within_group=o.within_group,
        background=o.background,
        size=o.size,
        min_images=o.min_images,
    )
    source = runs.build_source(data, "train", o.root)
    validation = [_validation_source(data, o.root)] if o.validate else []
    queries = queries_for(o.queries, o.shots, o.data, source, *validation)
    of_tasks = {"ways": o.ways, "shots": o.shots, "queries": queries, "seed": o.seed}
    algorithm = _with_teacher(o.algorithm) if isinstance(o.algorithm, TSMDOptions) else o.algorithm
    config = {
        "data": data,
        "tasks": of_tasks,
        "model": model_config(source, o.ways, o.width, o.norm),
        "algorithm": algorithm.config(),
    }
    sampler = source.sampler(**of_tasks)
    return config, sampler, validation[0].sampler(**of_tasks) if validation else None


def _with_teacher(algorithm: TSMDOptions) -> TSMDOptions:
    """With the configuration of the run that its teacher is named by."""
    path = path_of(algorithm.teacher).resolve()
    known = {n: v for n, v in runs.load_config(path).items() if n in ("model", "algorithm")}
    return replace(algorithm, teacher={**known, "run": str(path)})


def _validation_source(data: dict[str, Any], root: Path | None) -> ClassSource:
    """The validation classes as they are, whatever training makes of its own."""
    plain = {n: v for n, v in data.items() if n not in ("rotations", "background")}
    try:
        return runs.build_source(plain, "validation", root)
    except FileNotFoundError as error:
        raise ValueError(f"no validation data (--no-validate does without): {error}") from error


def _outcome(out: Path, history: History) -> str:
    if not history.validation:
        return f"{out / checkpoint.LAST}: {len(history.loss)} steps"
    best = history.best()
    return (
        f"{out / checkpoint.BEST}: step {best['step']}, validation accuracy "
        f"{best['mean']:.4f} ± {best['half_width']:.4f}"
    )
