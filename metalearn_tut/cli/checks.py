"""What the commands refuse before any work begins, by the option that is wrong."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

_WITHOUT_FILES = {"emoji": "emoji come with the package and", "glyphs": "glyphs are drawn and"}


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be written to.

    Raises
    ------
    OSError
        If it, or what it is to be made in, is a file or not ours to write to.
    """
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{option}: cannot write to {folder}: {there} is a file")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{option}: cannot write to {folder}: no permission in {there}")


def check_file(option: str, file: Path) -> None:
    """Refuse a file that cannot be written, as :func:`check_folder` does its folder."""
    if file.is_dir():
        raise IsADirectoryError(f"{option}: cannot write {file}: it is a folder, name a file in it")
    check_folder(option, file.parent)


def check_new_run(out: Path, *others: str) -> None:
    """Refuse a folder that holds a run of another kind: a run is known by its folder.

    Parameters
    ----------
    out : Path
        Where a run is to be kept.
    *others : str
        Names of files that runs of another kind are known by.
    """
    check_folder("--out", out)
    for name in others:
        if (out / name).exists():
            raise FileExistsError(f"--out: {out} holds another run ({name}): name another folder")


def check_root(data: str | None, root: Path | None, downloads: bool = False) -> None:
    """Refuse a folder of files that is not there, or that a data set would not look at."""
    if root is None:
        return
    if data in _WITHOUT_FILES:
        raise ValueError(f"--root {root}: {_WITHOUT_FILES[data]} have no files: leave it out")
    if not downloads and not root.exists():
        raise FileNotFoundError(f"--root {root}: there is no such folder")


def check_positive(option: str, value: float) -> None:
    """Refuse what is not a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"{option} must be positive, got {value:g}")


def device_of(name: str) -> torch.device:
    """The device of this process: under torchrun each has a GPU of its own.

    Raises
    ------
    ValueError
        If there is no such device, or this PyTorch cannot compute there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: not a device") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: this PyTorch finds no GPU")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"--device {name}: this PyTorch cannot compute there") from error
    return device
