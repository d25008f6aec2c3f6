"""Floor 7: from a configuration to data and learner, and back.

What an algorithm can be told stands in :mod:`metalearn_tut.runs.algorithms`, which the command
line reads before PyTorch is needed: so the other names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "Config",
    "build_federation",
    "build_learner",
    "build_source",
    "load_config",
    "load_learner",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.building"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
