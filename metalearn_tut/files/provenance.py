"""What was measured, with everything needed to measure it again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from metalearn_tut.files.cache import atomic_write


def processor() -> str:
    """The processor's (or GPU's) name, as far as the system tells."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the source tree, with ``+changes`` if the tree differs from it."""
    here = Path(__file__).parents[1]  # the whole package

    def git(*arguments: str) -> str:
        run = ["git", "-C", str(here), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here))
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("metalearn-tut", "torch", "numpy", "higher", "pillow", "matplotlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_result(
    path: str | os.PathLike[str], *, config: dict[str, Any], values: dict[str, Any]
) -> None:
    """Write one result file, whole or not at all.

    Parameters
    ----------
    path : path
        A JSON file.
    config : dict
        What was run: command, seeds, settings.
    values : dict
        What came out.
    """
    entry = {
        "config": config,
        "values": values,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": processor(),
        "versions": versions(),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(entry, indent=1) + "\n")
