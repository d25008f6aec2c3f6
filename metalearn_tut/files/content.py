"""What decides a value, as JSON, and a short name for what is in it, wherever it is computed."""

from __future__ import annotations

import dis
import hashlib
import json
import re
import types
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

_DIGITS = 16  # bytes: two contents share a name with probability 2**-128
_LIBRARIES = ("torch.", "metalearn_tut.")
_OF_EVERY_MODULE = set(vars(nn.Module()))
_VALUES = (bool, int, float, str, tuple, np.ndarray, torch.Tensor)
_CALLED = (types.FunctionType, partial, nn.Module)
_inside: ContextVar[tuple[int, ...]] = ContextVar("inside", default=())
"""Identities of what is being described: what leads back to itself ends there."""


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


def described(value: Any, *, known: Collection[Any] = ()) -> Any:
    """A value as JSON that is equal for equal contents: arrays by their :func:`content_hash`.

    What has ``settings()`` is described by it, a dataclass by its fields, a function by its
    code and what it closes over or reads of its file (one of a library by its name), a module by
    its :func:`architecture` and its tensors. What is none of these is described by its ``repr``,
    without addresses in memory, or, if it has none, by its attributes.

    Parameters
    ----------
    value : anything
    known : collection, optional
        What is named by its type alone wherever it turns up, such as the network whose weights
        are a learner's state.

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
    if id(value) in _inside.get():
        return {"again": type(value).__name__}
    with _within(value, *known):
        return _described(value)


@contextmanager
def _within(*values: Any) -> Iterator[None]:
    token = _inside.set((*_inside.get(), *map(id, values)))
    try:
        yield
    finally:
        _inside.reset(token)


def _described(value: Any) -> Any:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return content_hash([value])
    if callable(getattr(value, "settings", None)) and not isinstance(value, type):
        return value.settings()
    if isinstance(value, nn.Module):
        tensors = [part for pair in _tensors(value) for part in pair]
        return architecture(value) | ({"(tensors)": content_hash(tensors)} if tensors else {})
    if isinstance(value, Mapping):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(described, value), key=json.dumps)
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: described(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **own}
    return _named(value)


def _named(value: Any) -> Any:
    """What is known by its name, if that says all there is."""
    if isinstance(value, partial):
        return {"partial": [described(p) for p in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        of = {"method": value.__func__.__qualname__, "of": described(value.__self__)}
        return {**of, "does": described(value.__func__)}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value).__repr__ is not object.__repr__:
        return without_addresses(repr(value))
    slots = [n for kind in type(value).__mro__ for n in vars(kind).get("__slots__", ())]
    own = {n: getattr(value, n) for n in slots if hasattr(value, n) and n != "__dict__"}
    return {"type": type(value).__qualname__, **described(own | getattr(value, "__dict__", {}))}


def _function(function: types.FunctionType) -> Any:
    """A library's function by its name; one's own, wherever it was moved to, by what it does."""
    name = function.__qualname__
    if "<" not in name and f"{function.__module__}".startswith(_LIBRARIES):
        return f"{function.__module__}.{name}"
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inside = [*_code(function.__code__), function.__defaults__, cells]
    # what it reads of its file, but no lists, to which it may write
    read = {n: function.__globals__.get(n) for n in sorted(_globals(function.__code__))}
    read = {n: v for n, v in read.items() if isinstance(v, _CALLED) or type(v) in _VALUES}
    inside += [extra for extra in (function.__kwdefaults__, read) if extra]
    code = content_hash([function.__code__.co_code])
    return {"function": name, "code": code, "of": described(inside)}


def _code(code: types.CodeType) -> list[Any]:
    """Constants, those of functions defined inside with what these do, and names."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    constants = [c for c in code.co_consts if c not in inner]
    return [constants, code.co_names, *([content_hash([c.co_code]), *_code(c)] for c in inner)]


def _globals(code: types.CodeType) -> set[str]:
    """Names of its file that a function reads, or one that is defined inside it."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return own.union(*map(_globals, inner))


def architecture(model: nn.Module) -> dict[str, Any]:
    """What a network was built of, as JSON: its modules by name, whatever its weights and mode.

    Examples
    --------
    >>> architecture(nn.Sequential(nn.Linear(4, 3)))["0"]
    {'class': 'Linear', 'in_features': 4, 'out_features': 3}
    """
    with _within(*model.modules(), *model.parameters(), *model.buffers()):
        # no layer can be called so; a layer called "network" would hide the whole
        return {name or "(root)": _module(module) for name, module in model.named_modules()}


def _module(module: nn.Module) -> dict[str, Any]:
    given = {n: v for n, v in vars(module).items() if n not in _OF_EVERY_MODULE}
    own = {n: described(v) for n, v in given.items() if not _holds_tensors(v)}
    fixed = {n: content_hash([v]) for n, v in given.items() if _is_constant(v)}
    return {"class": type(module).__name__, **own, **fixed}


def _is_constant(value: Any) -> bool:
    """A tensor that is neither trained nor computed: no buffer, so that no file would have it."""
    return isinstance(value, torch.Tensor) and not value.requires_grad


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


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
