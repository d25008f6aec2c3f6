"""From the configuration of a run to its data and learner, and back from its checkpoint.

A configuration is plain JSON and is kept in the run's checkpoints::

    {
        "data": {"name": "glyphs", "rotations": true},
        "tasks": {"ways": 5, "shots": 1, "queries": 15, "seed": 0},
        "model": {"name": "Conv4", "in_channels": 1, "ways": 5, "width": 32, "norm": "support"},
        "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1}
    }

Of meta distillation, ``model`` is the student, and the algorithm holds the rest::

    {
        "name": "tsmd",
        "student": {"inner_lr": 0.4, "inner_steps": 3},
        "teacher": {"model": {...}, "algorithm": {...}, "run": "runs/teacher"},
        "kd_weight": 0.1
    }
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import checkpoint, maml, models, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.learner import Learner
from metalearn_tut.protonet import ProtoNet
from metalearn_tut.saliency.sparse import load_sparse, read_sparse
from metalearn_tut.tasks import ClassSource
from metalearn_tut.tasks.sampler import check_choice
from metalearn_tut.tasks.tensor_file import read_tensors

Config = Mapping[str, Any]

SOURCES: dict[str, Callable[..., ClassSource]] = {
    "glyphs": tasks.glyphs,
    "omniglot": tasks.omniglot,
    "mini_imagenet": tasks.mini_imagenet,
}
MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "Conv4": models.Conv4,
    "ResNet12": models.ResNet12,
}


def _distiller(
    model: torch.nn.Module, *, teacher: Config, student: Config | None = None, **options: Any
) -> MetaDistiller:
    """A student on this model, and its teacher: that of a run, or an untrained one."""
    device = next(model.parameters()).device
    if options.get("fixed_teacher") and "run" not in teacher:
        raise ValueError("a fixed teacher must be a trained one: its configuration needs a run")
    if "run" in teacher:
        known = load_learner(teacher["run"], device)
    else:
        known = build_learner(teacher, device)
    return MetaDistiller(known, maml.MAML(model, **student or {}), **options)


ALGORITHMS: dict[str, Callable[..., Learner]] = {
    "maml": maml.MAML,
    "fomaml": maml.fomaml,
    "anil": maml.anil,
    "reptile": maml.Reptile,
    "metasgd": maml.meta_sgd,
    "protonet": ProtoNet,
    "tsmd": _distiller,
}


def build_source(
    data: Config, split: str, root: str | os.PathLike[str] | None = None
) -> ClassSource:
    """The classes of one split of a data set.

    Parameters
    ----------
    data : mapping
        ``name``: one of ``SOURCES``; optional ``rotations`` (each quarter turn is a class of
        its own) and ``within_group`` (the classes of a task come from one script or
        alphabet); everything else is passed to the data set's function.
    split : {"train", "validation", "test"}
    root : path, optional
        Where the files are; the data set's own default otherwise.

    Raises
    ------
    ValueError, FileNotFoundError
        For an unknown name or option, and as the data set's function says.
    """
    options = dict(data)
    rotations, within = options.pop("rotations", False), options.pop("within_group", False)
    if root is not None and data.get("name") != "glyphs":
        options["root"] = root
    source = replace(_make("data", SOURCES, options, split), within_group=within)
    return source.rotated() if rotations else source


def build_learner(config: Config, device: str | torch.device = "cpu") -> Learner:
    """An untrained learner, initialized from PyTorch's global generator.

    Parameters
    ----------
    config : mapping
        ``model``: a ``name`` among ``MODELS`` and its arguments; ``algorithm``: a ``name``
        among ``ALGORITHMS`` and its arguments. For ``"tsmd"`` these are ``student``, the
        arguments of its MAML; ``teacher``, a configuration of its own that may name a trained
        ``run`` to begin with; and those of :class:`~metalearn_tut.distillation.MetaDistiller`.
    device : str or torch.device, default "cpu"
        Where its parameters lie.

    Raises
    ------
    ValueError
        If a part, name or argument is missing, unknown or out of range.

    Examples
    --------
    >>> config = {"model": {"name": "Conv4", "in_channels": 1, "ways": 5},
    ...           "algorithm": {"name": "anil", "inner_lr": 0.1}}
    >>> type(build_learner(config)).__name__
    'MAML'
    """
    for part in ("model", "algorithm"):
        if part not in config:
            raise ValueError(f"a configuration needs model and algorithm, got {list(config)}")
    model = _make("model", MODELS, config["model"]).to(device)
    return _make("algorithm", ALGORITHMS, config["algorithm"], model)


def load_learner(run: str | os.PathLike[str], device: str | torch.device = "cpu") -> Learner:
    """The trained learner of a run: its best checkpoint, or the last if there is no best.

    Parameters
    ----------
    run : path
        The folder that was ``out`` in training, or a checkpoint file, or a sparse file of a
        pruned learner, which is then given its masks. A fixed teacher is read from its own run.
    device : str or torch.device, default "cpu"
        Where its parameters lie.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If the checkpoint is damaged, or holds no configuration to build the learner from.
    """
    path = checkpoint.find(run)
    config = load_config(path)
    algorithm = config.get("algorithm", {})
    if not algorithm.get("fixed_teacher"):  # what became of its teacher is in the checkpoint
        algorithm.get("teacher", {}).pop("run", None)
    with torch.random.fork_rng([]):  # loading must not change what is drawn afterwards
        learner = build_learner(config, device)
    if _is_sparse(path):
        learner.set_masks(load_sparse(path, learner.meta_parameters()).masks)
    else:
        checkpoint.load(path, learner.meta_parameters())
    return learner


def _is_sparse(path: Path) -> bool:
    return "sparse" in read_tensors(path)[1]


def load_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration that a run was started with."""
    path = checkpoint.find(run)
    sparse = _is_sparse(path)
    config = read_sparse(path).config if sparse else checkpoint.read(path)[1]["run"].get("config")
    if not config:
        raise ValueError(
            f"{path} holds no configuration: build its learner as it was built for training, "
            "then checkpoint.load(path, learner.meta_parameters())"
        )
    return config


def _make(part: str, makers: Mapping[str, Callable[..., Any]], config: Config, *first: Any) -> Any:
    """Call the maker that ``config`` names with the rest of it."""
    arguments = dict(config)
    name = arguments.pop("name", None)
    check_choice(part, name, makers)
    try:
        return makers[name](*first, **arguments)
    except TypeError as error:
        raise ValueError(f"{part} {name!r} cannot be made: {error}") from error
