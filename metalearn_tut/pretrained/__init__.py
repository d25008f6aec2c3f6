"""Floor 7: trained learners that come with the package: small files, each loaded in an instant."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from metalearn_tut.learners.learner import Learner
from metalearn_tut.runs.building import load_learner

_SUFFIX = ".safetensors"


def available() -> list[str]:
    """The names that :func:`load` knows."""
    return sorted(file.stem for file in _folder().glob(f"*{_SUFFIX}"))


def load(name: str, device: str = "cpu") -> Learner:
    """A trained learner, ready to adapt to a task.

    Parameters
    ----------
    name : str
        One of :func:`available`.
    device : str, default "cpu"
        Where its parameters lie.

    Raises
    ------
    ValueError
        If there is none of this name; the message lists those there are.
    """
    return load_learner(path(name), device)


def path(name: str) -> Path:
    """The checkpoint file of a name (weights and configuration, no optimizer state)."""
    if name not in available():
        raise ValueError(
            f"no pretrained learner is called {name!r}; available: "
            f"{', '.join(available()) or 'none'}"
        )
    return _folder() / f"{name}{_SUFFIX}"


def _folder() -> Path:
    return Path(str(resources.files(__name__)))
