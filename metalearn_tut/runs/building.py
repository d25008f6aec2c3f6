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

Of a federated run, ``tasks`` are those of a node, which has ``ways`` classes, and there is a plan
(see :func:`build_federation`)::

    {
        "data": {"name": "glyphs"},
        "tasks": {"ways": 5, "shots": 1, "queries": 15, "seed": 0},
        "model": {"name": "ChannelGatedConv4", "in_channels": 1, "ways": 5, "norm": "support"},
        "algorithm": {"name": "metagater", "inner_lr": 0.4, "sparsity": 0.5},
        "federation": {"nodes": 50, "rounds": 100, "fraction": 0.2, "local_steps": 5}
    }
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metalearn_tut import gating, models, tasks
from metalearn_tut.checks import check_choice
from metalearn_tut.federated import Federation, by_classes
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.learners.learner import Learner
from metalearn_tut.runs.algorithms import ALGORITHMS, FEDERATED
from metalearn_tut.saliency.sparse import load_sparse, read_sparse
from metalearn_tut.tasks import ClassSource
from metalearn_tut.training import checkpoint

Config = Mapping[str, Any]


def _image_folder(split: str, root: str | os.PathLike[str] | None = None, **options: Any) -> Any:
    if root is None:
        raise ValueError("image_folder needs root (--root): the folder of your pictures")
    return tasks.image_folder(root, split, **options)


SOURCES: dict[str, Callable[..., ClassSource]] = {
    "emoji": tasks.emoji,
    "glyphs": tasks.glyphs,
    "omniglot": tasks.omniglot,
    "mini_imagenet": tasks.mini_imagenet,
    "image_folder": _image_folder,
}


def _gated(
    plain: type[torch.nn.Module], gated: type[torch.nn.Module], **arguments: Any
) -> torch.nn.Module:
    """A network with gates, from the arguments of both."""
    of_gates = {n: arguments.pop(n) for n in ("hidden", "open_bias", "tau") if n in arguments}
    return gated(plain(**arguments), **of_gates)


MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "Conv4": models.Conv4,
    "ResNet12": models.ResNet12,
    "ChannelGatedConv4": partial(_gated, models.Conv4, gating.ChannelGatedConv4),
    "ChannelGatedResNet12": partial(_gated, models.ResNet12, gating.ChannelGatedResNet12),
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
    if root is not None and data.get("name") not in ("emoji", "glyphs"):
        options["root"] = root
    source = replace(_make("data", SOURCES, options, split), within_group=within)
    return source.rotated() if rotations else source


def build_learner(config: Config, device: str | torch.device = "cpu") -> Learner:
    """An untrained learner, initialized from PyTorch's global generator.

    Parameters
    ----------
    config : mapping
        ``model``: a ``name`` among ``MODELS`` and its arguments; ``algorithm``: a ``name``
        among those of :mod:`metalearn_tut.runs.algorithms` and arguments of its learner: those
        that are options of the command line, and any other. For ``"tsmd"`` these are
        ``student``, the arguments of its MAML; ``teacher``, a configuration of its own that may
        name a trained ``run`` to begin with; and those of
        :class:`~metalearn_tut.distillation.MetaDistiller`. Gated networks take the arguments
        of the network and of its gates.
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
    makers = {name: kind.learner for name, kind in {**ALGORITHMS, **FEDERATED}.items()}
    return _make("algorithm", makers, config["algorithm"], model)


def build_federation(
    config: Config,
    root: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
) -> Federation:
    """An untrained learner, and nodes that share out the training classes of a data set.

    Parameters
    ----------
    config : mapping
        ``data``, ``model`` and ``algorithm``; ``tasks``, with the ``ways`` classes of every
        node, its ``shots`` support and ``queries`` query images for each of them, and the
        ``seed`` of all that is drawn, initial weights included; ``federation``, with the
        number of ``nodes`` and arguments of :class:`~metalearn_tut.federated.Federation`.
    root, device
        As for :func:`build_source` and :func:`build_learner`.

    Returns
    -------
    Federation
        Labels are 0..ways-1 on every node, whatever its classes are. All nodes train: those
        that are to be new have the classes of another split.

    Raises
    ------
    ValueError, FileNotFoundError
        As for its parts; also for more classes than there are, and for a node with fewer images
        than its tasks need, naming it.

    Notes
    -----
    The same configuration makes the same federation, so that Flower's processes can each make
    it: ``experiment = "metalearn_tut.runs:build_federation"`` in the settings of
    :mod:`metalearn_tut.federated.flower.app`, and ``arguments = '{"config": {...}}'``.

    Examples
    --------
    >>> model = {"name": "Conv4", "in_channels": 1, "ways": 3, "width": 4}
    >>> federation = build_federation({
    ...     "data": {"name": "glyphs"}, "model": model, "algorithm": {"name": "per_fedavg"},
    ...     "tasks": {"ways": 3, "shots": 2, "queries": 5, "seed": 0},
    ...     "federation": {"nodes": 10, "rounds": 20, "fraction": 0.5},
    ... })
    >>> federation.nodes[0], federation.support, federation.query
    (Node(0: 60 images of 3 classes), 6, 15)
    """
    if missing := [part for part in ("data", "tasks", "federation") if part not in config]:
        raise ValueError(f"the configuration of a federated run needs {missing[0]}")
    plan, drawn = dict(config["federation"]), config["tasks"]
    ways, seed = drawn["ways"], drawn["seed"]
    source = build_source(config["data"], "train", root)
    nodes = by_classes(source, plan.pop("nodes"), ways, unseen=0, seed=seed, local_labels=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        learner = build_learner(config, device)
    sets = {"support": ways * drawn["shots"], "query": ways * drawn["queries"]}
    return Federation(learner, nodes.train, **sets, seed=seed, **plan)


def load_learner(run: str | os.PathLike[str], device: str | torch.device = "cpu") -> Learner:
    """The trained learner of a run: its best checkpoint, or the last if there is no best.

    Parameters
    ----------
    run : path
        The folder that was ``out`` in training, or a checkpoint file, or a sparse file of a
        pruned learner, which is then given its masks. Nothing else is read: a teacher is in it.
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
    if "run" in (teacher := config.get("algorithm", {}).get("teacher", {})):
        teacher["run"] = None  # which may be elsewhere, or another one by now
    with torch.random.fork_rng([]):  # loading must not change what is drawn afterwards
        learner = build_learner(config, device)
    if _is_sparse(path):
        load_sparse(path, learner)
    else:
        checkpoint.load(path, learner)
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
            "then checkpoint.load(path, learner)"
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
