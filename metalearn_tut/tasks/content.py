"""What decides a value, as JSON, and a short name for what is in it, wherever it is computed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

_DIGITS = 16  # bytes: two contents share a name with probability 2**-128


def content_hash(parts: Iterable[Any]) -> str:
    """32 hexadecimal digits that belong to these parts in this order, on every machine.

    Parameters
    ----------
    parts : iterable of array, Tensor or other
        Arrays count by dtype, shape and numbers (of either byte order, on any device);
        anything else by its ``repr``.

    Examples
    --------
    >>> content_hash([np.arange(3)]) == content_hash([torch.arange(3)])
    True
    >>> content_hash([np.arange(3)]) == content_hash([np.arange(3.0)])
    False
    """
    digest = hashlib.blake2b(digest_size=_DIGITS)
    for part in parts:
        if not isinstance(part, (np.ndarray, torch.Tensor)):
            digest.update(f"{part!r}\n".encode())
            continue
        array = _as_array(part)
        digest.update(f"{_kind(part)} {array.shape}\n".encode())
        if array.dtype.kind in "biufc":
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
        else:
            digest.update(repr(array.tolist()).encode())
    return digest.hexdigest()


def described(value: Any) -> Any:
    """A value as JSON that is equal for equal contents: arrays by their :func:`content_hash`.

    What has ``settings()`` is described by it, a dataclass by its fields, and what is none of
    these by its ``repr``, without addresses in memory.

    Examples
    --------
    >>> described({"rates": (0.1, np.float32(0.5)), "shots": np.int64(5)})
    {'rates': [0.1, 0.5], 'shots': 5}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return described(value.item()) if value.dtype.kind in "biufU" else repr(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return content_hash([value])
    if callable(getattr(value, "settings", None)) and not isinstance(value, type):
        return value.settings()
    if isinstance(value, Mapping):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: described(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **own}
    return without_addresses(repr(value))


def without_addresses(text: str) -> str:
    """A ``repr`` as another process would write it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _as_array(part: np.ndarray | torch.Tensor) -> np.ndarray:
    """The numbers as NumPy holds them; those of dtypes that it lacks, as bytes."""
    if isinstance(part, np.ndarray):
        return part
    part = part.detach().cpu().contiguous()
    if _kind(part) == "bfloat16":
        return part.view(torch.int16).numpy()
    return part.numpy()


def _kind(part: np.ndarray | torch.Tensor) -> str:
    return part.dtype.name if isinstance(part, np.ndarray) else str(part.dtype)[len("torch.") :]
