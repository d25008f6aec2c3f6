"""What decides a result, as JSON: two runs are compared by it, and what differs has a name."""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_BASE = {name for name in vars(nn.Module()) if name != "training"} | {"training"}


def described(value: Any) -> Any:
    """A value as JSON that is the same for equal values, in any process.

    Parameters
    ----------
    value : object
        Numbers, texts and containers are themselves; tensors and arrays a hash of their
        contents; functions their name, constants and what they close over; modules
        :func:`described_model`. Of any other object it is what ``value.settings()`` says, or its
        ``repr`` without addresses, or, if its class has none, its attributes.

    Examples
    --------
    >>> described({"lr": 0.1, "loss": nn.functional.mse_loss})
    {'lr': 0.1, 'loss': 'torch.nn.functional.mse_loss'}
    >>> described(torch.zeros(3)) == described(torch.ones(3))
    False
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        return fingerprint({"": value})
    if isinstance(value, nn.Module):
        return described_model(value)
    if isinstance(value, Mapping):
        return {str(name): described(part) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [described(part) for part in value]
    if isinstance(value, partial):
        parts = [described(value.func), described(value.args), described(value.keywords)]
        return {"partial": parts}
    if isinstance(value, types.MethodType):
        return [value.__func__.__qualname__, described(value.__self__)]
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    return _object(value)


def _object(value: Any) -> Any:
    if callable(getattr(value, "settings", None)):
        return described(value.settings())
    kind = type(value)
    if kind.__repr__ is not object.__repr__:
        return re.sub(" at 0x[0-9a-fA-F]+", "", repr(value))
    return {"class": kind.__qualname__, **described(getattr(value, "__dict__", {}))}


def _function(function: types.FunctionType) -> Any:
    """Its name; and of one that has no name of its own to be known by, what is in it."""
    name = f"{function.__module__}.{function.__qualname__}"
    if "<" not in function.__qualname__:
        return name
    code = function.__code__
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inside = [constants, list(code.co_names), function.__defaults__, cells]
    steps = hashlib.blake2b(code.co_code, digest_size=8).hexdigest()
    return {"function": name, "of": described(inside), "steps": steps}


def described_model(model: nn.Module) -> dict[str, Any]:
    """Each module's class and what it was built with, by name; no weight, and not its mode.

    Examples
    --------
    >>> described_model(nn.Sequential(nn.Linear(4, 3), nn.Tanh()))["0"]
    'Linear(in_features=4, out_features=3, bias=True)'
    """
    return {name or "network": _module(module) for name, module in model.named_modules()}


def _module(module: nn.Module) -> Any:
    said = f"{type(module).__name__}({module.extra_repr()})"
    if type(module).__module__.startswith("torch."):
        return said
    own = {n: v for n, v in vars(module).items() if n not in _BASE and not _is_part(v)}
    return {"class": said, **described(own)} if own else said


def _is_part(value: Any) -> bool:
    return isinstance(value, (nn.Module, Tensor))


def fingerprint(tensors: Mapping[str, Tensor | np.ndarray]) -> str:
    """A hash of names, kinds, shapes and numbers: the same on every machine."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = torch.as_tensor(tensors[name]).detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
