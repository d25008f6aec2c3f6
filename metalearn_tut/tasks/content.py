"""What decides a value, as JSON, and a short name for what is in it, wherever it is computed."""

from __future__ import annotations

import hashlib
import re
import types
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

_DIGITS = 16  # bytes: two contents share a name with probability 2**-128
_LIBRARIES = ("torch.", "metalearn_tut.")
_OF_EVERY_MODULE = set(vars(nn.Module()))


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


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record for a file: numbers of any library as Python's, all else :func:`described`.

    Examples
    --------
    >>> as_json({"accuracy": torch.tensor(0.5), "counts": [np.int64(3), 4], "by": None})
    {'accuracy': 0.5, 'counts': [3, 4], 'by': None}
    """
    return {str(name): _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return as_json(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim < 2:
        return value.tolist()
    return described(value)


def described(value: Any) -> Any:
    """A value as JSON that is equal for equal contents: arrays by their :func:`content_hash`.

    What has ``settings()`` is described by it, a dataclass by its fields, a function by its
    code and what it closes over (one of a library by its name), a module by its
    :func:`architecture` and its tensors. What is none of these is described by its ``repr``,
    without addresses in memory, or, if it has none, by its attributes.

    Examples
    --------
    >>> described({"rates": (0.1, np.float32(0.5)), "shots": np.int64(5)})
    {'rates': [0.1, 0.5], 'shots': 5}
    >>> described(nn.Sequential(nn.Tanh()))
    {'(root)': {'class': 'Sequential'}, '0': {'class': 'Tanh'}}
    >>> described(nn.functional.mse_loss), described(lambda x: 2 * x) == described(lambda x: 3 * x)
    ('torch.nn.functional.mse_loss', False)
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return described(value.item()) if value.dtype.kind in "biufU" else repr(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return content_hash([value])
    if callable(getattr(value, "settings", None)) and not isinstance(value, type):
        return value.settings()
    if isinstance(value, nn.Module):
        return architecture(value)
    if isinstance(value, Mapping):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: described(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **own}
    return _named(value)


def _named(value: Any) -> Any:
    """What is known by its name, if that says all there is."""
    if isinstance(value, partial):
        return {"partial": [described(p) for p in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"method": value.__func__.__qualname__, "of": described(value.__self__)}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value).__repr__ is not object.__repr__:
        return without_addresses(repr(value))
    return {"type": type(value).__qualname__, **described(getattr(value, "__dict__", {}))}


def _function(function: types.FunctionType) -> Any:
    """A library's function by its name; one's own, wherever it was moved to, by what it does."""
    name = function.__qualname__
    if "<" not in name and f"{function.__module__}".startswith(_LIBRARIES):
        return f"{function.__module__}.{name}"
    code = function.__code__
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inside = [constants, code.co_names, function.__defaults__, cells]
    return {"function": name, "code": content_hash([code.co_code]), "of": described(inside)}


def architecture(model: nn.Module) -> dict[str, Any]:
    """What a network was built of, as JSON: its modules by name, whatever its weights and mode.

    Examples
    --------
    >>> architecture(nn.Sequential(nn.Linear(4, 3)))["0"]
    {'class': 'Linear', 'in_features': 4, 'out_features': 3}
    """
    # no layer can be called so; a layer called "network" would hide the whole
    return {name or "(root)": _module(module) for name, module in model.named_modules()}


def _module(module: nn.Module) -> dict[str, Any]:
    given = {n: v for n, v in vars(module).items() if n not in _OF_EVERY_MODULE}
    own = {n: described(v) for n, v in given.items() if not _holds_tensors(v)}
    return {"class": type(module).__name__, **own}


def _holds_tensors(value: Any) -> bool:
    """Whether a module keeps its parts or weights here (also an RNN its list of them)."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    return isinstance(value, (nn.Module, torch.Tensor, weakref.ReferenceType))


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
