"""Floor 1: what every argument is asked: is it one of those allowed, a count, a whole number?"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor


def as_integer(value: Any) -> int | None:
    """A whole number of any library as Python's, or None; True and False are no numbers.

    Examples
    --------
    >>> as_integer(np.int64(5)), as_integer(torch.tensor(5)), as_integer(5.0), as_integer(True)
    (5, 5, None, None)
    """
    if isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) == torch.bool:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_index(index: int) -> int:
    """``index`` as an integer that names a task, or an error that says what would."""
    if (number := as_integer(index)) is None:
        raise TypeError(
            f"task index must be an integer, got {index!r}; for several: sampler.tasks(indices)"
        )
    if not 0 <= number < 2**64:
        raise IndexError(f"task index must be in 0..2**64-1, got {number}")
    return number


def check_seed(seed: int) -> int:
    """``seed`` as Python's integer; refuse seeds that name no list of tasks."""
    number = as_integer(seed)
    if number is None or not 0 <= number < 2**64:
        raise ValueError(f"seed must be an integer in 0..2**64-1, got {seed!r}")
    return number


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse an argument that is none of those allowed, naming them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_rate(rate: float) -> float:
    """``rate`` if it is a probability; refuse it if not."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be a probability in 0..1, got {rate}")
    return rate


def check_count(**counts: int) -> tuple[int, ...]:
    """Numbers of ways, examples or tasks as Python's integers; refuse what is not >= 1.

    Examples
    --------
    >>> ways, shots = check_count(ways=np.int64(5), shots=1)
    >>> type(ways).__name__
    'int'
    """
    return tuple(whole_number(name, value, least=1) for name, value in counts.items())


def check_rows(rows: Sequence[np.ndarray], n: int, name: str) -> None:
    """Refuse rows that are no positions of images, or occur twice."""
    if any(r.ndim != 1 or r.dtype.kind not in "iu" for r in rows):
        raise ValueError(f"rows of {name} must be integers [n], one array for each class")
    every = np.concatenate([*rows, np.zeros(0, np.int64)])
    if every.size and not 0 <= every.min() <= every.max() < n:
        wrong = every.min() if every.min() < 0 else every.max()
        raise ValueError(f"rows of {name} must be in 0..{n - 1}, its images, got {wrong}")
    if every.size and (counts := np.bincount(every.astype(np.int64))).max() > 1:
        raise ValueError(
            f"rows of {name} must differ, or support and query set share an image: row "
            f"{counts.argmax()} occurs {counts.max()} times"
        )


def whole_number(name: str, value: object, least: int = 0) -> int:
    """``value`` as an ``int``, of whatever kind of integer it is; True and 2.0 are none.

    Raises
    ------
    ValueError
        If it is not an integer of at least ``least``.
    """
    number = as_integer(value)
    if number is None or number < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return number


def has_values(x: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at: not inside ``vmap``, nor in a trace.

    Nor while a GPU's work is recorded as a CUDA graph.

    Examples
    --------
    >>> has_values(torch.ones(2)), torch.func.vmap(lambda x: x * has_values(x))(torch.ones(1))
    (True, tensor([0.]))
    """
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not isinstance(x, FakeTensor) and not torch._C._functorch.is_batchedtensor(x)
