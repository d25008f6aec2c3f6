"""Any ``state_dict()`` as tensors and JSON, and back, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors go to ``tensors``, under dotted names that begin with ``name``.

    Raises
    ------
    ValueError
        If it holds anything but tensors, numbers, text, None, lists, tuples and mappings.

    Examples
    --------
    >>> import torch
    >>> tensors = {}
    >>> split({0: {"betas": (0.9, 0.99), "step": torch.tensor(3.0)}}, "adam", tensors)
    {'mapping': [[0, {'mapping': [['betas', {'tuple': [0.9, 0.99]}], ['step', {'tensor': 'adam.0.step'}]]}]]}
    >>> tensors
    {'adam.0.step': tensor(3.)}
    """  # noqa: E501
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value.detach().clone()  # a file takes no tensor twice
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"mapping": [[k, split(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        parts = [split(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    raise ValueError(f"{name} is {value!r}: neither a tensor nor JSON, it cannot be kept in a file")


def join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`split`."""
    if isinstance(value, list):
        return [join(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, of),) = value.items()
    if kind == "tensor":
        return tensors[of]
    if kind == "tuple":
        return tuple(join(v, tensors) for v in of)
    return {k: join(v, tensors) for k, v in of}
