"""An ordinary classifier of all training classes: what pruning or teaching may begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut import runs
from metalearn_tut.claims.learners import shared
from metalearn_tut.claims.study import Config
from metalearn_tut.claims.tasks import source
from metalearn_tut.files.tensor_file import read_tensors, write_tensors
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.tasks import as_float
from metalearn_tut.tasks.emoji.augmentation import jittered

_UNITS = 8  # random numbers for the pose and tint of an emoji


def classifier(config: Config, folder: Path) -> dict[str, Tensor]:
    """The weights of a network without its head, trained to name all training classes.

    Parameters
    ----------
    config : dict
        ``model``, ``data`` (a family), ``steps`` of Adam with ``batch`` images and the rate
        ``lr``, which falls to 0 by a cosine, and ``seed``. Emoji are posed and tinted, other
        images mirrored.
    folder : Path
        The job's; all studies share what is trained.
    """
    return shared(config, folder, lambda out: _trained(config, out))


def _trained(config: Config, out: Path) -> dict[str, Tensor]:
    path = out / "classifier.safetensors"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_tensors(path, _train(config), {"config": config})
    return read_tensors(path)[0]


def _train(config: Config) -> dict[str, Tensor]:
    classes = source(config["data"], "train")
    torch.manual_seed(config["seed"])
    rng = np.random.default_rng(config["seed"])
    model = {**config["model"], "ways": classes.n_classes}
    network = runs.building.MODELS[model.pop("name")](**model)
    rows = np.concatenate(classes.rows)
    labels = np.repeat(np.arange(classes.n_classes), [len(r) for r in classes.rows])
    optimizer = torch.optim.Adam(network.parameters(), lr=config["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["steps"])
    for _ in range(config["steps"]):
        chosen = rng.integers(len(rows), size=config["batch"])
        images = varied(np.asarray(classes.images[rows[chosen]]), config["data"], rng)
        logits = network(as_float(torch.from_numpy(images)))
        loss = F.cross_entropy(logits, torch.from_numpy(labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return without_head(network)


def varied(images: np.ndarray, family: str, rng: np.random.Generator) -> np.ndarray:
    """Images of a batch as training sees them."""
    if family == "emoji":
        return jittered(images, rng.random((len(images), _UNITS)))
    flipped = rng.random(len(images)) < 0.5
    return np.where(flipped[:, None, None, None], images[..., ::-1], images)


def without_head(network: FewShotNetwork) -> dict[str, Tensor]:
    """All parameters but the head's."""
    return {
        name: p.detach().clone()
        for name, p in network.named_parameters()
        if not name.startswith("head.")
    }


def begin_with(network: FewShotNetwork, weights: dict[str, Tensor]) -> None:
    """Give a network these weights, and leave its head as it is."""
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or any(not name.startswith("head.") for name in missing):
        raise ValueError(f"the weights do not fit: {missing} are missing, {unexpected} too many")
