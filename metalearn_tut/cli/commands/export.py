"""What ``metalearn-tut export`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from metalearn_tut import runs, saliency
from metalearn_tut.cli.checks import check_file
from metalearn_tut.cli.commands.shared import check_ways, path_of, sampler_for
from metalearn_tut.cli.options import Export
from metalearn_tut.deployment import export_network
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.training import checkpoint


def export(o: Export, arguments: Sequence[str]) -> None:
    """Write a run's weights and configuration, or the network adapted to one task."""
    _check(o)
    path = path_of(o.run)
    if o.file.suffix != ".onnx":
        _export_weights(path, o.file)
        print(f"{o.file}: {o.file.stat().st_size:,} bytes")
        return
    learner = runs.load_learner(path)
    sampler = sampler_for(runs.load_config(path), o, queries=1)
    task = sampler[o.task]
    check_ways(learner, task.ways)
    network = learner.adapt(task.support_x, task.support_y).deploy()
    exported = export_network(network, o.file, task.support_x.shape[1:])
    print(f"{exported!r}\ntask {o.task} of {sampler!r}")


def _check(o: Export) -> None:
    """Refuse what cannot be written, what that would destroy, and a task where none is needed."""
    if o.file.suffix not in (".safetensors", ".onnx"):
        raise ValueError(f"FILE must end in .safetensors or .onnx, got {o.file}")
    check_file("FILE", o.file)
    if o.file.name in (checkpoint.BEST, checkpoint.LAST, checkpoint.PRUNED) and o.file.exists():
        raise FileExistsError(f"FILE: {o.file} belongs to a run, which would lose it: name another")
    if o.file.suffix == ".safetensors":
        of_task = [f for f in fields(o) if f.name not in ("run", "file")]
        for name in (f.name for f in of_task if getattr(o, f.name) != f.default):
            raise ValueError(f"--{name}: only an .onnx file is of one task, {o.file} is of none")


def _export_weights(run: Path, file: Path) -> None:
    if "sparse" not in read_tensors(run)[1]:
        checkpoint.export(run, file)
        return
    pruned = saliency.read_sparse(run)  # which never had what only training needs
    saliency.save_sparse(file, pruned.params, pruned.masks, pruned.config)
