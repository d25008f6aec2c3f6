"""A network with other tensors in place of its own, as a private copy: calling it changes nothing.

``torch.func.functional_call`` swaps tensors inside the module that is called. Two threads then
see each other's weights, and a tensor that is held under a second name is left behind. Here the
module is copied instead, its tensors not, and whoever holds a replaced one gets its replacement.
"""

from __future__ import annotations

import copy
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

_PLAIN = frozenset({bool, int, float, str, type(None)})
_DICTIONARIES = frozenset({dict, OrderedDict})
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_METHODS = (types.MethodType, types.BuiltinMethodType)
_PROXIES = (weakref.ProxyType, weakref.CallableProxyType)


def with_tensors(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    training: bool | None = None,
    by_batch: Collection[nn.Module] = (),
) -> nn.Module:
    """A private copy of ``model`` that has ``tensors`` in place of those of the same names.

    Parameters
    ----------
    model : nn.Module
        Left as it is, whatever is done with the copy. Weights that are shared, modules under
        two names, lists and functions that hold them are so in the copy, too.
    tensors : mapping of name to Tensor
        Parameters and buffers as they are to be. Of the others parameters are the model's own
        tensors, and buffers copies of them.
    training : bool, optional
        The mode of every layer of the copy; that of the layer itself by default.
    by_batch : collection of nn.Module, optional
        Batch norms that normalize by what they are given in either mode.

    Raises
    ------
    ValueError
        If a name is not that of a parameter or buffer.
    TypeError
        If a part of the model is compiled and cannot be copied.
    RuntimeError
        Inside ``parametrize.cached()``, if a layer is parametrized.

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> double = with_tensors(model, {"weight": torch.tensor([[2.0]])})
    >>> double(torch.tensor([[3.0]])).item(), double.weight is model.weight
    (6.0, False)
    """
    own = dict(model.named_parameters())
    memo = {id(p): tensors.get(name, p) for name, p in own.items()}
    for name, buffer in model.named_buffers():
        own[name] = buffer
        memo[id(buffer)] = tensors[name] if name in tensors else buffer.clone()
    if unknown := sorted(tensors.keys() - own.keys()):
        raise ValueError(f"{unknown[0]!r} is not a parameter of {type(model).__name__}")
    return _Copy(model, memo, training, set(map(id, by_batch))).of_module(model)


def for_tasks(model: nn.Module, *, training: bool | None = None) -> nn.Module:
    """The private copy that a learner works with: norms without statistics go by the batch.

    An inner loop fills no running statistics. A batch norm that has none to read would turn
    evaluation mode into another network than the one that was trained.
    """
    return with_tensors(model, {}, training=training, by_batch=without_statistics(model))


def at_rest(function: Any) -> Any:
    """A loss as it is used in prediction: a module as a private copy in evaluation mode."""
    module = isinstance(function, nn.Module)
    return with_tensors(function, {}, training=False) if module else function


def replaced(model: nn.Module, parts: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A copy of ``model`` with other layers in place of these; all tensors are the model's own."""
    memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo |= {id(old): new for old, new in parts.items()}
    return _Copy(model, memo, None, set()).of_module(model)


def without_statistics(model: nn.Module, *, learned: bool = False) -> list[nn.Module]:
    """Batch and instance norms that cannot but normalize by what they are given.

    They keep no running statistics, or have never seen a batch (then means of 0 and variances
    of 1 are no statistics at all), or are in training mode, unless training is where statistics
    are ``learned``.
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase)]
    return [m for m in norms if not _is_filled(m) or (m.training and not learned)]


def forget_statistics(model: nn.Module) -> None:
    """Reset running statistics of layers in training mode: weights that are trained leave them."""
    for layer in model.modules():
        filled = isinstance(layer, _NormBase) and layer.running_mean is not None
        if filled and layer.training and layer.num_batches_tracked:
            layer.reset_running_stats()


def _is_filled(norm: _NormBase) -> bool:
    if norm.running_mean is None or norm.running_var is None:
        return False
    counted = norm.num_batches_tracked is not None and bool(norm.num_batches_tracked)
    return counted or bool(norm.running_mean.any())


class _Copy:
    """One copy of a model: ``memo`` holds what stands for what, by the identity of the original.

    Parameters
    ----------
    model : nn.Module
    memo : dict of int to object
        At first the tensors (and layers) that are replaced.
    training : bool or None
        The mode of every module; None for its own.
    by_batch : set of int
        Identities of norms that normalize by the batch.
    """

    def __init__(
        self, model: nn.Module, memo: dict[int, Any], training: bool | None, by_batch: set[int]
    ) -> None:
        self.memo, self.training, self.by_batch = memo, training, by_batch
        self.modules = set(map(id, model.modules()))

    def of_module(self, module: nn.Module) -> nn.Module:
        """The module's twin, which is made once."""
        if id(module) in self.memo:
            return self.memo[id(module)]
        kind = type(module)
        _check_copied(module)
        twin = self.memo[id(module)] = kind.__new__(kind)
        own = vars(twin)
        for name, value in vars(module).items():
            of = type(value)  # mostly plain values and empty dictionaries of hooks
            if of in _PLAIN or (of is tuple and _PLAIN.issuperset(map(type, value))):
                own[name] = value
            else:
                own[name] = of() if of in _DICTIONARIES and not value else self.of(value)
        if self.training is not None:
            twin.training = self.training
        for name, value in vars(module).items() if not twin.training else ():
            if type(value) is torch.Generator:  # of a layer that evaluates: no stream goes on
                own[name] = torch.Generator(value.device).set_state(value.get_state())
        own["_compiled_call_impl"] = None  # it would call the module that was compiled
        if id(module) in self.by_batch:
            # not by its mode: in evaluation mode it would read what it never wrote
            twin.track_running_stats = False
            twin.running_mean = twin.running_var = twin.num_batches_tracked = None
        return twin

    def of(self, value: Any) -> Any:
        """An attribute: a container is copied, so that the module's own is not changed."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if kind in (weakref.ReferenceType, *_PROXIES):
            return self.of_weak(value)
        if isinstance(value, nn.Module):
            return self.of_module(value)
        if isinstance(value, (Tensor, np.ndarray)):
            same = value.clone() if isinstance(value, Tensor) else value.copy()
            return self.memo.setdefault(id(value), same)
        if isinstance(value, _CONTAINERS):
            return self.of_container(value)
        if kind in _METHODS:
            own = self.of(value.__self__)
            return value if own is value.__self__ else getattr(own, value.__name__)
        if kind in (types.FunctionType, partial):
            return self.of_function(value) if _holds(value, self.memo, set()) else value
        return self.of_object(value) if _is_own(value) else value

    def of_container(self, value: Any) -> Any:
        """One of any kind: also what is derived from a list, or a tuple with names."""
        if isinstance(value, (tuple, frozenset)):
            parts = [*map(self.of, value)]
            if all(a is b for a, b in zip(parts, value, strict=True)):
                return value  # also a shape, which could not be made anew like this
            if hasattr(value, "n_sequence_fields"):  # values and indices, as torch.max gives them
                return type(value)(parts)
            return (tuple if isinstance(value, tuple) else frozenset).__new__(type(value), parts)
        twin = type(value)() if type(value) in _DICTIONARIES else copy.copy(value)
        self.memo[id(value)] = twin
        twin.clear()
        if isinstance(value, dict):
            twin.update((self.of(name), self.of(part)) for name, part in value.items())
        else:
            (twin.update if isinstance(value, set) else twin.extend)(map(self.of, value))
        return twin

    def of_object(self, value: Any) -> Any:
        """A helper that may hold layers, or what ``forward`` remembers: its attributes' twins."""
        twin = self.memo[id(value)] = copy.copy(value)
        if twin is not value:  # one of an enumeration is itself
            vars(twin).update((name, self.of(part)) for name, part in vars(value).items())
        return twin

    def of_weak(self, value: Any) -> Any:
        """A weak reference to a part of the model, such as a layer's to its parent."""
        proxy = type(value) in _PROXIES
        target = value.__repr__.__self__ if proxy else value()
        if id(target) not in self.memo and id(target) not in self.modules:
            return value
        return (weakref.proxy if proxy else weakref.ref)(self.of(target))

    def of_function(self, value: Any) -> Any:
        """A function over modules of the model, or a partial one, over their twins instead."""
        if isinstance(value, partial):
            arguments = map(self.of, value.args)
            return partial(self.of(value.func), *arguments, **self.of(value.keywords))
        old = value.__closure__ or ()
        cells = tuple(types.CellType() for _ in old)
        twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
        self.memo[id(value)] = twin
        twin.__defaults__, twin.__kwdefaults__ = map(
            self.of, (value.__defaults__, value.__kwdefaults__)
        )
        for cell, inner in zip(cells, old, strict=True):
            if _is_set(inner):
                # what it only writes to, such as a list of what it saw, stays the caller's
                held = _holds(inner.cell_contents, self.memo, set())
                cell.cell_contents = self.of(inner.cell_contents) if held else inner.cell_contents
        return twin


def _check_copied(module: nn.Module) -> None:
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule) or kind == "OptimizedModule":
        raise TypeError(
            f"a compiled module ({kind}) cannot be given other weights: pass the module that it "
            "was compiled from"
        )
    if parametrize._cache_enabled and parametrize.is_parametrized(module):
        raise RuntimeError(
            f"inside parametrize.cached() every copy of a parametrized layer ({kind}) has the "
            "weight of the first: leave that block"
        )


def _holds(value: Any, memo: dict[int, Any], seen: set[int]) -> bool:
    """Whether a module or a tensor of the model can be reached from here."""
    if isinstance(value, nn.Module) or id(value) in memo:
        return True
    if type(value) in _PLAIN or id(value) in seen:
        return False
    seen.add(id(value))
    return any(_holds(part, memo, seen) for part in _parts(value))


def _is_own(value: Any) -> bool:
    """Whether it is an object of the user's, with attributes; those of libraries are shared."""
    if isinstance(value, (type, types.ModuleType)) or not getattr(value, "__dict__", None):
        return False
    library = type(value).__module__.partition(".")[0]
    shared = library in sys.stdlib_module_names or library in ("torch", "numpy")
    return not shared or isinstance(value, types.SimpleNamespace)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, _CONTAINERS):
        return (*value, *value.values()) if isinstance(value, dict) else value
    if isinstance(value, partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, _METHODS):
        return (value.__self__,)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
        return (*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    return vars(value).values() if _is_own(value) else ()


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that has no value yet
        return False
