"""What ``metalearn-tut export`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from metalearn_tut import runs, saliency
from metalearn_tut.cli.checks import check_file
from metalearn_tut.cli.commands.shared import check_ways, path_of, sampler_for
from metalearn_tut.cli.options import Export
from metalearn_tut.deployment import export_learner, export_network
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.learners.learner import Learner
from metalearn_tut.training import checkpoint

_OF_LEARNER = ("classify", "steps", "max_shots", "uint8", "half")


def export(o: Export, arguments: Sequence[str]) -> None:
    """Write a run's weights and configuration, or the network adapted to one task."""
    _check(o)
    path = path_of(o.run)
    if o.file.suffix != ".onnx":
        _export_weights(path, o.file)
        print(f"{o.file}: {o.file.stat().st_size:,} bytes")
        return
    learner = runs.load_learner(path)
    if o.learner:
        _export_learner(learner, path, o)
        return
    sampler = sampler_for(runs.load_config(path), o, queries=1)
    task = sampler[o.task]
    check_ways(learner, task.ways)
    network = learner.adapt(task.support_x, task.support_y).deploy()
    exported = export_network(network, o.file, task.support_x.shape[1:])
    print(f"{exported!r}\ntask {o.task} of {sampler!r}")


def _export_learner(learner: Learner, path: Path, o: Export) -> None:
    """Write the learner as a file that learns, or as two."""
    how = {name: getattr(o, name) for name in _OF_LEARNER} | {"ways": o.ways, "seed": o.seed}
    print(repr(export_learner(learner, o.file, _input_shape(path, o), **how)))


def _input_shape(path: Path, o: Export) -> tuple[int, ...]:
    """As the network's configuration has it, or as the images are that it was trained on."""
    config = runs.load_config(path)
    model = config["model"]
    if "in_channels" in model and "image_size" in model:
        return model["in_channels"], model["image_size"], model["image_size"]
    return tuple(sampler_for(config, o, queries=1)[0].support_x.shape[1:])


def _check(o: Export) -> None:
    """Refuse what cannot be written, what that would destroy, and a task where none is needed."""
    _check_options(o)
    if o.file.suffix not in (".safetensors", ".onnx"):
        raise ValueError(f"FILE must end in .safetensors or .onnx, got {o.file}")
    check_file("FILE", o.file)
    if o.file.name in (checkpoint.BEST, checkpoint.LAST, checkpoint.PRUNED) and o.file.exists():
        raise FileExistsError(f"FILE: {o.file} belongs to a run, which would lose it: name another")
    if o.file.suffix == ".safetensors":
        of_task = [f for f in fields(o) if f.name not in ("run", "file")]
        for name in (f.name for f in of_task if getattr(o, f.name) != f.default):
            raise ValueError(f"--{name}: only an .onnx file is of one task, {o.file} is of none")


def _check_options(o: Export) -> None:
    """Refuse options of a learner's file for others, and those of a task for a learner's."""
    if o.learner and o.file.suffix != ".onnx":
        raise ValueError(f"--learner: FILE must end in .onnx, got {o.file}")
    if o.classify is not None:
        check_file("--classify", o.classify)
    unused = ("task", "shots", "split") if o.learner else _OF_LEARNER
    for f in fields(o):
        if f.name in unused and getattr(o, f.name) != f.default:
            told = f"--{f.name.replace('_', '-')}"
            raise ValueError(
                f"{told}: --learner writes a file of no task"
                if o.learner
                else f"{told}: only with --learner"
            )


def _export_weights(run: Path, file: Path) -> None:
    if "sparse" not in read_tensors(run)[1]:
        checkpoint.export(run, file)
        return
    pruned = saliency.read_sparse(run)  # which never had what only training needs
    saliency.save_sparse(file, pruned.params, pruned.masks, pruned.config)
