"""What ``metalearn-tut federate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn_tut import runs
from metalearn_tut.cli.checks import check_new_run, check_root, device_of
from metalearn_tut.cli.commands.shared import data_config, model_config, queries_for, set_threads
from metalearn_tut.cli.options import Federate
from metalearn_tut.federated.outcome import Record, unanswered
from metalearn_tut.federated.training import federated_train
from metalearn_tut.runs.algorithms import MetaGaterOptions
from metalearn_tut.training import checkpoint


def federate(o: Federate, arguments: Sequence[str]) -> None:
    """Meta-train a learner on nodes with different data, in rounds."""
    set_threads(o.threads)
    check_root(o.data, o.root)
    check_new_run(o.out, checkpoint.PRUNED)
    config = _configured(o)
    federation = runs.build_federation(config, o.root, device_of(o.device))
    count = sum(p.numel() for p in federation.learner.meta_parameters().values())
    print(f"{o.algorithm.name} with {count:,} parameters to train on {o.nodes} nodes", flush=True)
    records = federated_train(
        federation,
        o.out,
        config=config,
        resume=o.resume,
        save_every=o.save_every,
        workers=o.workers,
    )
    print(_outcome(o.out, records))


def _configured(o: Federate) -> dict[str, Any]:
    """The run's configuration."""
    data = data_config(o.data, rotations=o.rotations, within_group=o.within_group)
    source = runs.build_source(data, "train", o.root)
    model = model_config(source, o.classes_per_node, o.width, o.norm)
    if isinstance(o.algorithm, MetaGaterOptions):
        model["name"] = "ChannelGatedConv4"
    named = ("nodes", "rounds", "fraction", "local_steps", "tasks_per_step")
    plan = {name: getattr(o, name) for name in named}
    queries = queries_for(o.queries, o.shots, o.data, source)
    shape = {"ways": o.classes_per_node, "shots": o.shots, "queries": queries}
    return {
        "data": data,
        "tasks": {**shape, "seed": o.seed},
        "model": model,
        "algorithm": o.algorithm.config(),
        "federation": {**plan, **o.algorithm.outer_rates(o.outer_lr)},
    }


def _outcome(out: Path, records: Sequence[Record]) -> str:
    down, up = (sum(r[n] for r in records) / 1e6 for n in ("bytes_down", "bytes_up"))
    missing, last = sum(len(r["left_out"]) for r in records), unanswered(records)
    return (
        f"{out / checkpoint.LAST}: {len(records)} rounds, {down:,.1f} MB to the nodes and "
        f"{up:,.1f} MB back{f', {missing} replies left out' if missing else ''}"
        f"{f'; nobody answered in the last {last}' if last else ''}"
    )
