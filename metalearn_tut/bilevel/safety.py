"""A guard against layers whose second-order gradient is silently wrong, or does not exist.

A meta-gradient differentiates the inner gradients once more. Some layers get the value and
the first derivative right and the second one wrong, and nothing complains: training just
works a little worse. This module knows the ones that we found, by engine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize

from metalearn_tut.checks import check_choice

GUARDED = ("functional", "higher", "vectorised", "implicit", "vmap")
"""The engines of this package, and ``torch.func.vmap`` over tasks as a reader may write it."""

Trap = Callable[[nn.Module], "str | None"]
"""A module -> what is wrong with it and the way out, or None."""


def assert_second_order_safe(
    model: nn.Module, engine: str = "functional", *, first_order: bool = False
) -> None:
    """Refuse a model whose meta-gradient would be wrong under ``engine``.

    ========================================== =============================== ==============
    trap                                       engines                         what happens
    ========================================== =============================== ==============
    ``weight_norm`` of ``torch.nn.utils``      all                             wrong, silent
    ``spectral_norm`` while training           all                             wrong, silent
    attention by a fused kernel                all                             no derivative
    ``Hardsigmoid``, ``EmbeddingBag``          all                             no derivative
    hooks (``nn.utils.prune`` masks, ...)      higher                          never called
    norms with weights                         vmap                            wrong, silent
    running statistics while training          vmap                            refused
    one module registered under two names      vmap                            model overwritten
    ========================================== =============================== ==============

    Parameters
    ----------
    model : nn.Module
        In the mode, ``train()`` or ``eval()``, in which it will be adapted.
    engine : str, default "functional"
        ``"functional"``, ``"higher"``, ``"vectorised"``, ``"implicit"``, or ``"vmap"`` for
        your own ``torch.func.vmap`` over tasks.
    first_order : bool, default False
        Look only for what is wrong without second derivatives, too: what an engine never calls
        or leaves overwritten.

    Raises
    ------
    ValueError
        If ``engine`` is unknown, or a submodule is a trap: the message has its dotted name,
        its type, and the way out.

    Notes
    -----
    Only modules can be seen. The same traps as plain functions in a ``forward`` go
    unnoticed: ``F.layer_norm`` under vmap, ``F.scaled_dot_product_attention``,
    ``torch.cdist``. Attention is refused even where ``need_weights=True`` would avoid the
    fused kernel, since the call cannot be seen either. ``"vectorised"`` refuses layers that
    it cannot batch by itself.

    Upstream: weight_norm unreported; vmap, pytorch/functorch#534; two names,
    pytorch/pytorch#164759; attention, pytorch/pytorch#116350; hooks, facebookresearch/higher#14.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> assert_second_order_safe(net)
    >>> assert_second_order_safe(net, engine="vmap")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: engine='vmap' has no right second-order gradient through 1 (LayerNorm): ...
    """
    check_choice("engine", engine, GUARDED)
    names: dict[nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        traps = [t for t in _TRAPS[engine] if not first_order or t in _AT_ANY_ORDER]
        reason = next(filter(None, (trap(module) for trap in traps)), None)
        if module in names and engine == "vmap":
            reason = reason or _registered_twice(module, names[module])
        if reason:
            where = name or "the model itself"
            raise ValueError(
                f"engine={engine!r} has no right {'' if first_order else 'second-order '}gradient "
                f"through {where} "
                f"({type(module).__name__}): {reason}"
            )
        names.setdefault(module, name)


def _attached(module: nn.Module) -> set[str]:
    """Names of the torch.nn.utils classes that rewrite a weight of this module.

    They come as forward pre-hooks (the old style) or as parametrizations (the new one).
    """
    attached = list(module._forward_pre_hooks.values())
    if parametrize.is_parametrized(module):
        attached += [part for chain in module.parametrizations.values() for part in chain]
    kinds = {type(a) for a in attached}
    return {k.__name__.lstrip("_") for k in kinds if k.__module__.startswith("torch.nn.utils")}


def _weight_norm(module: nn.Module) -> str | None:
    if "WeightNorm" not in _attached(module):
        return None
    return (
        "the second derivative of torch's fused weight_norm is wrong; register a "
        "parametrization of your own that returns v * (g / v.norm(dim=1, keepdim=True))"
    )


def _spectral_norm(module: nn.Module) -> str | None:
    if "SpectralNorm" not in _attached(module) or not module.training:
        return None
    return (
        "while training, spectral_norm hides its power iteration from autograd; call eval() on "
        "this layer (fixed singular vectors), or register a parametrization of your own that "
        "returns w / torch.linalg.matrix_norm(w, 2)"
    )


def _fused_attention(module: nn.Module) -> str | None:
    fused = (
        torch.backends.cuda.flash_sdp_enabled() or torch.backends.cuda.mem_efficient_sdp_enabled()
    )
    if not isinstance(module, nn.MultiheadAttention) or not fused:
        return None
    return (
        "fused attention kernels have no second derivative; adapt inside "
        "`with torch.nn.attention.sdpa_kernel(SDPBackend.MATH):`, and call this check there too"
    )


def _no_double_backward(module: nn.Module) -> str | None:
    if isinstance(module, nn.Hardsigmoid):
        return "torch has no second derivative of it; use relu6(x + 3) / 6, the same function"
    if isinstance(module, nn.EmbeddingBag):
        return "torch has no second derivative of it; use nn.Embedding and sum or average its rows"
    return None


def _hooks(module: nn.Module) -> str | None:
    if not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks):
        return None
    return (
        "higher never calls hooks (nn.utils.prune masks are hooks: the layer would not be "
        "adapted); use engine='functional', or a parametrization, or compute it in forward()"
    )


def _vmapped_norm(module: nn.Module) -> str | None:
    """Norms whose backward pass has a wrong batching rule, where they use it."""
    if isinstance(module, nn.LayerNorm):
        uses_inputs, running = True, None
    elif isinstance(module, _BATCH_NORMS):
        running = module.running_mean
        uses_inputs = module.training or running is None
    else:
        return None
    if not uses_inputs or (module.weight is None and running is None):
        return None
    if module.weight is None:
        return "vmap cannot update running statistics; use track_running_stats=False"
    return (
        "vmap has a wrong second derivative of batch, layer and instance norms with weights; "
        "use GroupNorm, models.TaskBatchNorm2d, a norm without weights, or engine='functional'"
    )


def _registered_twice(module: nn.Module, first: str) -> str | None:
    """Only tensors can be left behind: one activation used in two places is fine."""
    if not [*module.parameters(), *module.buffers()]:
        return None
    return (
        f"it is registered as {first} too, and functional_call leaves the adapted weights behind "
        "in the model; register it once and call it twice in forward()"
    )


_BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
_AT_ANY_ORDER: tuple[Trap, ...] = (_hooks,)
_ALWAYS: tuple[Trap, ...] = (_weight_norm, _spectral_norm, _fused_attention, _no_double_backward)
_TRAPS: dict[str, tuple[Trap, ...]] = {
    "functional": _ALWAYS,
    "implicit": _ALWAYS,
    "vectorised": _ALWAYS,
    "higher": (*_ALWAYS, _hooks),
    "vmap": (*_ALWAYS, _vmapped_norm),
}
