"""What is refused before any work is done, each by one sentence that names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel.forward import functional, one_tensor
from metalearn_tut.bilevel.inner import Params, Rate, is_per_step, private
from metalearn_tut.checks import whole_number
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.scoring import TaskLoss, check_aligned, is_elementwise, unwrapped
from metalearn_tut.tasks.task import TaskBatch, as_float, check_one_scale


def check_inner(
    params: Mapping[str, Tensor],
    steps: int,
    lr: Rate,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    prox_weight: float = 0.0,
) -> None:
    """Refuse settings of an inner loop that cannot work."""
    whole_number("inner_steps", steps)
    if not 0 <= prox_weight < inf:
        raise ValueError(f"prox_weight must be finite and >= 0, got {prox_weight}")
    stepped = list(params) if groups is None else [name for group in groups for name in group]
    check_known("groups", stepped, params)
    check_masks(masks or {}, params)
    if is_per_step(lr) and len(lr) < steps:
        raise ValueError(f"inner_lr has {len(lr)} entries, fewer than inner_steps={steps}")
    for rate in lr if is_per_step(lr) else [lr]:
        _check_rate(rate, params, stepped)


def check_masks(masks: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> None:
    """Refuse masks that have no parameter, or not its shape."""
    check_known("masks", masks, params)
    for name, mask in masks.items():
        if mask.shape != params[name].shape:
            raise ValueError(
                f"masks[{name!r}] must have shape {list(params[name].shape)}, "
                f"got {list(mask.shape)}"
            )


def check_known(what: str, names: Iterable[str], params: Mapping[str, Tensor]) -> None:
    """Refuse names that are no parameter's."""
    if unknown := sorted(set(names) - set(params)):
        raise ValueError(
            f"{what} names no parameter of the model: {', '.join(unknown)}; "
            f"its parameters are {', '.join(params)}"
        )


def _check_rate(
    rate: float | Tensor | Mapping, params: Mapping[str, Tensor], stepped: Sequence[str]
) -> None:
    """Refuse the rates of one step if a stepped parameter has none, or one that does not fit."""
    if isinstance(rate, Mapping):
        check_known("inner_lr", rate, params)
        if missing := sorted(set(stepped) - set(rate)):
            raise ValueError(f"inner_lr has no rate for {', '.join(missing)}")
        for name, value in rate.items():
            # A rate of more dimensions would broadcast the parameter to a new shape, silently.
            if isinstance(value, Tensor) and not _fits(value.shape, params[name].shape):
                raise ValueError(
                    f"inner_lr[{name!r}] must be a number or broadcast to shape "
                    f"{list(params[name].shape)}, got shape {list(value.shape)}"
                )
    for value in rate.values() if isinstance(rate, Mapping) else [rate]:
        if isinstance(value, Tensor) and (value.ndim == 0 or isinstance(rate, Mapping)):
            continue  # learned rates: whatever training makes of them
        if not isinstance(value, Real) or not 0 <= value < inf:
            shown = f"a {value.ndim}-D tensor" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"inner_lr must be finite and >= 0, got {shown}")


def _fits(shape: torch.Size, target: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(s in (1, t) for s, t in pairs)


def prepare(
    batch: TaskBatch,
    params: Params,
    ways: int | None,
    losses: tuple[object, object] = (F.cross_entropy, F.cross_entropy),
) -> TaskBatch:
    """The batch as the parameters need it (dtype, device), or an error that names what is wrong.

    ``ways`` is the number of outputs if known, ``losses`` those of support and query.
    """
    if not isinstance(batch, TaskBatch):
        raise TypeError(
            f"batch must be a TaskBatch, got {type(batch).__name__}: TaskBatch.stack([task, ...])"
        )
    check_one_scale(batch.support_x, batch.query_x)
    ready: dict[str, Tensor] = {}
    for part, loss in zip(("support", "query"), losses, strict=True):
        x, y = getattr(batch, f"{part}_x"), getattr(batch, f"{part}_y")
        check_targets(y.flatten(0, 1), f"{part}_y", ways, loss)
        ready[f"{part}_x"], ready[f"{part}_y"] = prepared(x, y, params, f"{part}_x")
    return TaskBatch(**ready)


def checked_support(
    model: nn.Module,
    params: Params,
    support_x: Tensor,
    support_y: Tensor,
    *,
    loss: TaskLoss,
    steps: int,
    lr: Rate,
    masks: Mapping[str, Tensor] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    prox_weight: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """A support set as the parameters need it, or an error before the inner loop begins.

    ``params`` are where it starts; the others are arguments of :func:`inner_path`.
    """
    check_inner(params, steps, lr, masks, groups, prox_weight)
    check_rows(support_x, support_y, "support")
    check_targets(support_y, "support_y", ways_of(model, params), loss)
    x, y = prepared(support_x, support_y, params, "support_x")
    if y.is_floating_point() or not is_cross_entropy(loss):
        with torch.no_grad():
            check_aligned(loss, one_tensor(functional(model)(private(params), x)), y)
    return x, y


def prepared(x: Tensor, y: Tensor, params: Params, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets on the parameters' device, floats in their dtype."""
    check_finite(x, name)
    like = next(iter(params.values()))
    # what was computed inside inference_mode() could not be differentiated through
    x = x.clone() if x.is_inference() else x
    y = y.clone() if y.is_inference() else y
    x = as_float(x.to(like.device), like.dtype)
    return x, y.to(like.device, like.dtype if y.is_floating_point() else y.dtype)


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor, such as an array or a list.

    Raises
    ------
    TypeError
        With the way to make it one.
    """
    if not isinstance(value, Tensor):
        got = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise TypeError(f"{name} must be a tensor, got {got}: pass torch.as_tensor({name})")


def check_rows(x: Tensor, y: Tensor, part: str) -> None:
    """Refuse a set whose inputs and targets are no tensors, or differ in number."""
    check_tensor(f"{part}_x", x)
    check_tensor(f"{part}_y", y)
    if len(x) != len(y):
        raise ValueError(
            f"{part}_x and {part}_y must have one row per example, "
            f"got {len(x)} inputs and {len(y)} targets"
        )


def check_finite(x: Tensor, name: str) -> None:
    """Refuse inputs with NaN or infinite numbers."""
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite, but it has NaN or infinite numbers")


def check_targets(
    y: Tensor, name: str, ways: int | None = None, loss: object = F.cross_entropy
) -> None:
    """Refuse labels ``[B]`` that cross entropy cannot read or the model has no output for.

    cross_entropy itself would take -100 for "ignore", and crash a GPU on a label too high.
    """
    if not y.numel():
        raise ValueError(f"{name} must not be empty")
    known = is_cross_entropy(loss) or is_elementwise(loss)
    if known and y.is_floating_point() and not torch.isfinite(y).all():
        raise ValueError(f"{name} must be finite, but it has NaN or infinite numbers")
    if not is_cross_entropy(loss) or (y.is_floating_point() and y.ndim > 1):
        return  # what targets another loss takes, it knows itself
    if y.dtype != torch.int64:
        raise ValueError(f"{name} must be int64 labels, got {y.dtype}")
    if ways is not None and y.ndim != 1:
        raise ValueError(f"{name} must be labels [B], one for each row, got shape {list(y.shape)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or (ways is not None and high >= ways):
        allowed = "labels >= 0" if ways is None else f"labels in 0..{ways - 1}"
        raise ValueError(f"{name} must hold {allowed}, got {low if low < 0 else high}")


def is_cross_entropy(loss: object) -> bool:
    """Whether a loss is PyTorch's cross entropy, as a function, a module or a partial."""
    loss = unwrapped(loss)
    return loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)


def ways_of(model: nn.Module, params: Mapping[str, Tensor]) -> int | None:
    """Number of outputs where it is sure: of a network of this package or an ``nn.Sequential``.

    There it is the number of rows of the ``head``, or of the last layer. None where it cannot be
    told: a layer's name says nothing.
    """
    path = []
    if isinstance(model, (FewShotNetwork, CifarResNet)):
        path, model = ["head"], model.head
    while isinstance(model, nn.Sequential) and len(model):
        name, model = list(model.named_children())[-1]
        path.append(name)
    weight = ".".join([*path, "weight"])
    return len(params[weight]) if isinstance(model, nn.Linear) and weight in params else None
