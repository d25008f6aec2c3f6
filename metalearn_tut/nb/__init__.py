"""Floor 7: the small vocabulary of a chapter: compare results, report versions, check exercises."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metalearn_tut.machine import keep_memory
from metalearn_tut.nb import _order

__all__ = ["check", "compare", "environment", "start"]

_RECORD = "METALEARN_TUT_COMPARES"
_order.watch()


def compare(
    name: str,
    mine: Any,
    reference: Any,
    *,
    against: str = "module",
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> None:
    """Print how far ``mine`` is from ``reference``, and fail if it is too far.

    Equal means ``|mine - reference| <= atol + rtol · |reference|``, entry by entry.

    Parameters
    ----------
    name : str
        What is compared, as the reader knows it.
    mine, reference : number, tensor, array, sequence or mapping of these
        The two results; mappings must have the same keys.
    against : str, default "module"
        What the reference is: ``"module"``, ``"closed form"``, ``"finite difference"`` ...
        A chapter must compare with its module and with one of the other kinds.
    rtol, atol : float, default 1e-10 and 1e-12
        Allowed difference.

    Raises
    ------
    AssertionError
        If a shape, a key or a number differs by more than that, or a number is NaN.

    Examples
    --------
    >>> compare("one third", 0.333333333333, 1 / 3, rtol=1e-9)
    ok  one third: differs by 3.3e-13 at most (allowed 1e-12 + 1e-09·|ref|)
    >>> compare("two", torch.tensor(2.0), 2)
    ok  two: exactly equal
    """
    largest, within = 0.0, True
    for key, a, b in _pairs(name, mine, reference):
        if a.shape != b.shape:
            raise AssertionError(f"{key}: shapes differ, {a.shape} and {b.shape}")
        difference = np.abs(a - b)
        if not np.isfinite(difference).all():
            raise AssertionError(f"{key}: not finite, so nothing to compare")
        largest = max(largest, float(difference.max(initial=0.0)))
        within &= bool((difference <= atol + rtol * np.abs(b)).all())
    found = f"differs by {largest:.1e} at most (allowed {atol:.0e} + {rtol:.0e}·|ref|)"
    if not within:
        raise AssertionError(f"{name}: {found}")
    print(f"ok  {name}: {'exactly equal' if largest == 0 else found}")
    if record := os.environ.get(_RECORD):
        with Path(record).open("a") as file:
            file.write(json.dumps({"name": name, "against": against}) + "\n")


def _pairs(name: str, mine: Any, reference: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The arrays to compare, with their names."""
    if isinstance(mine, Mapping) and isinstance(reference, Mapping):
        if mine.keys() != reference.keys():
            raise AssertionError(f"{name}: keys differ, {sorted(mine)} and {sorted(reference)}")
        return [p for k in mine for p in _pairs(f"{name}[{k!r}]", mine[k], reference[k])]
    return [(name, _array(mine), _array(reference))]


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    elif isinstance(value, (list, tuple)):
        value = [_array(v) for v in value]
    return np.asarray(value, dtype=np.float64)


def start() -> int:
    """Begin a chapter: one thread, as its times are given for, and the seed of what it trains.

    Memory is kept: see :func:`~metalearn_tut.machine.keep_memory`.

    ``METALEARN_TUT_THREADS`` and ``METALEARN_TUT_SEED`` (1 and 0 by default) run it otherwise, and
    what a chapter says must hold then, too.

    Returns
    -------
    int
        The seed.

    Examples
    --------
    >>> seed = start()
    """
    keep_memory()
    torch.set_num_threads(int(os.environ.get("METALEARN_TUT_THREADS", "1")))
    return int(os.environ.get("METALEARN_TUT_SEED", "0"))


def environment() -> None:
    """Print the versions and the machine: paste it into an error report."""
    from importlib.metadata import PackageNotFoundError, version

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("metalearn-tut", "torch", "higher", "numpy", "matplotlib")
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    print(", ".join(f"{p} {version_of(p)}" for p in packages[:3]))
    print(", ".join(f"{p} {version_of(p)}" for p in packages[3:]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"device: {device}, {torch.get_num_threads()} thread(s)")


def check(exercise: str, verify: Callable[[], None]) -> None:
    """Run an exercise's check and say how it went.

    Parameters
    ----------
    exercise : str
        Its name, for the message.
    verify : callable
        Calls the reader's answer; raises ``AssertionError`` with the reason if it is wrong.

    Raises
    ------
    AssertionError
        If the answer is wrong; an answer that raises ``NotImplementedError`` is only
        reported as not attempted.

    Examples
    --------
    >>> def my_chance(ways):
    ...     raise NotImplementedError
    >>> check("1.1", lambda: close(my_chance(5), 0.2, "chance of 5 ways"))
    1.1: not attempted yet
    """
    try:
        verify()
    except NotImplementedError:
        print(f"{exercise}: not attempted yet")
        return
    print(f"{exercise}: correct")


def close(mine: Any, right: Any, what: str, tolerance: float = 1e-6) -> None:
    """Fail with a sentence if an exercise's answer is not the right number."""
    a, b = _array(mine), _array(right)
    if a.shape != b.shape:
        raise AssertionError(f"{what}: expected shape {b.shape}, got {a.shape}")
    worst = float(np.abs(a - b).max(initial=0.0))
    if not worst <= tolerance or math.isnan(worst):
        raise AssertionError(f"{what}: off by {worst:.3g}, allowed {tolerance:g}")
