"""Few-shot learning of compact models: the reference modules of the book.

Names are imported on first use, so that ``import metalearn_tut`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "MAML": "learners",
    "ProtoNet": "learners",
    "RankedRange": "rank_losses",
    "Reptile": "learners",
    "evaluate": "evaluation",
    "meta_train": "training",
}
_ROOMS = (
    "bilevel",
    "block_voting",
    "deployment",
    "distillation",
    "evaluation",
    "federated",
    "gating",
    "learners",
    "models",
    "nb",
    "pretrained",
    "rank_losses",
    "runs",
    "saliency",
    "tasks",
    "training",
)
__all__ = sorted([*_HOMES, *_ROOMS])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
