"""Seeds that nobody chose: of trainings, of validation tasks, and of test tasks never used before.

``results/claims/test_seeds.json`` lists a hash of every seed of test tasks that was ever looked at;
a test refuses a study that uses one of another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIRST_ROUND = (*range(100), *range(1000, 1100))  # all that it used, and more
PURPOSES = ("train", "validation", "test", "pilot")


def fresh(purpose: str, name: str, seed: int) -> int:
    """A number that belongs to a purpose, a name (of a study or of data) and a seed alone.

    Parameters
    ----------
    purpose : {"train", "validation", "test", "pilot"}
        ``"train"`` goes with the name of the data, so that studies can share trainings; the
        others with that of the study.
    name : str
    seed : int

    Examples
    --------
    >>> fresh("test", "hetrom", 0), fresh("test", "hetrom", 1)
    (2696895519, 4185929728)
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose must be one of {PURPOSES}, got {purpose!r}")
    digest = hashlib.sha256(f"{purpose} {name} {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def hashed(seed: int) -> str:
    """What the file of used seeds calls a seed."""
    return hashlib.sha256(str(seed).encode()).hexdigest()[:16]


def seeds_of_tests(config: Any) -> Iterator[int]:
    """The seeds of test tasks in a job's configuration: of parts with ``split: test``."""
    if isinstance(config, dict):
        if config.get("split") == "test" and "seed" in config:
            yield config["seed"]
        for part in config.values():
            yield from seeds_of_tests(part)
    elif isinstance(config, list):
        for part in config:
            yield from seeds_of_tests(part)


def used(path: Path) -> dict[str, list[str]]:
    """Hashes of used seeds, by study; those of the first round under ``"first round"``."""
    return json.loads(path.read_text("utf-8"))
