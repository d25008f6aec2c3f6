"""What several commands ask of their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from metalearn_tut import pretrained, runs
from metalearn_tut.cli.checks import check_root
from metalearn_tut.cli.parser import expanded
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.protonet import ProtoNet
from metalearn_tut.tasks import ClassSource, TaskSampler
from metalearn_tut.training import checkpoint


class OfTasks(Protocol):
    """Options that say which tasks a trained learner is shown."""

    data: str | None
    root: Path | None
    split: str
    ways: int | None
    shots: int | None
    seed: int


def path_of(run: str) -> Path:
    """The checkpoint file that a run's name stands for."""
    kind, _, name = run.partition(":")
    path = expanded(run)
    if run in pretrained.available() and not path.exists():
        return pretrained.path(run)
    return pretrained.path(name) if kind == "pretrained" else checkpoint.find(path)


def set_threads(threads: int | None) -> None:
    """So many threads, if a number was given."""
    if threads is not None:
        torch.set_num_threads(threads)


def data_config(
    name: str,
    *,
    rotations: bool = False,
    within_group: bool = False,
    background: str = "full",
    size: int | None = None,
    min_images: int | None = None,
) -> dict[str, Any]:
    """The data's name and those options that are not as usual."""
    config: dict[str, Any] = {"name": name}
    for option, value in {"size": size, "min_images": min_images}.items():
        if value is not None:
            if name != "image_folder":
                given = f"--{option.replace('_', '-')} {value}"
                raise ValueError(f"{given}: only image_folder has it, not {name}")
            config[option] = value
    turned = {"rotations": rotations, "within_group": within_group}
    config |= {option: True for option, given in turned.items() if given}
    if background != "full":
        if name != "omniglot":
            raise ValueError(f"--background {background}: only omniglot has it, not {name}")
        config["background"] = background
    return config


def model_config(source: ClassSource, ways: int, width: int, norm: str) -> dict[str, Any]:
    """A Conv4 for these images."""
    channels, size = source.images.shape[1:3]
    sizes = {"in_channels": channels, "ways": ways, "width": width}
    return {"name": "Conv4", **sizes, "norm": norm, "image_size": size}


def queries_for(told: int | None, shots: int, data: str | None, *sources: ClassSource) -> int:
    """As told; else 15, or of emoji, of which there are few, all beside the support images."""
    if told is not None or data != "emoji":
        return 15 if told is None else told
    return max(1, min(len(rows) for source in sources for rows in source.rows) - shots)


def sampler_for(
    config: Mapping[str, Any], o: OfTasks, queries: int | None, **of_data: bool
) -> TaskSampler:
    """Tasks for the learner of a configuration: as it was trained on, but for what is told."""
    trained, of_training = config.get("tasks", {}), config.get("data", {})
    name = o.data or of_training.get("name")
    check_root(name, o.root)
    data = {"name": name, **of_data}
    if name in ("omniglot", "mini_imagenet", "image_folder") and "image_size" in config["model"]:
        data["size"] = config["model"]["image_size"]
    if name == "image_folder":
        data["channels"] = config["model"]["in_channels"]
        data |= {n: of_training[n] for n in ("min_images", "groups") if n in of_training}
    source = runs.build_source(data, o.split, o.root)
    ways, shots = o.ways or trained.get("ways", 5), o.shots or trained.get("shots", 1)
    return source.sampler(ways, shots, queries_for(queries, shots, name, source), o.seed)


def check_ways(learner: Learner, ways: int) -> None:
    """Refuse tasks whose number of ways the learner has no head for."""
    trained = learner.model.ways
    parts = [getattr(learner, name, learner) for name in ("teacher", "student")]
    free = (isinstance(p, ProtoNet) or getattr(p, "zero_head", False) for p in parts)
    if ways != trained and not all(free):
        raise ValueError(
            f"tasks have {ways} ways, and the learner a head trained for {trained}: other ways "
            "need a learner trained with --zero-head, or protonet"
        )
