"""What each layer is given: its inputs while the network runs with a task's adapted weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel import Params, functional, query_outputs
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.checks import check_choice, check_count
from metalearn_tut.learners.maml import MAML
from metalearn_tut.tasks.task import Task, as_float

PRUNABLE = (nn.Conv2d, nn.Linear)
DATA = ("support", "query")

Layers = dict[str, nn.Module]
See = Callable[[str, Tensor], None]


def prunable_layers(learner: MAML, layers: Sequence[str] | None = None) -> Layers:
    """The convolutions and linear layers that can be pruned, in the order of the modules.

    Norms never are (as in the authors' code), nor are frozen layers (``requires_grad=False``),
    nor a head that starts every task at zero: it is not learned, so it has no weight to remove.

    Parameters
    ----------
    learner : MAML
        Or a relative of :mod:`metalearn_tut.learners`.
    layers : sequence of names, optional
        Some of them; all by default.

    Raises
    ------
    ValueError
        If a name is no module's, or that of a layer that cannot be pruned; if a convolution
        has groups; if no layer is left.

    Examples
    --------
    >>> from metalearn_tut import models
    >>> list(prunable_layers(MAML(models.Conv4(1, ways=5), zero_head=True)))
    ['blocks.0.conv', 'blocks.1.conv', 'blocks.2.conv', 'blocks.3.conv']
    """
    modules, trained = dict(learner.model.named_modules()), free_parameters(learner)
    kinds = {n: m for n, m in modules.items() if isinstance(m, PRUNABLE)}
    found = {n: m for n, m in kinds.items() if parameter_name(n, "weight") in trained}
    for name in () if layers is None else layers:
        if name not in found:
            raise ValueError(
                f"layers names {name!r}, which cannot be pruned: {_why(modules.get(name))}; the "
                f"layers that can are {', '.join(map(repr, found)) or 'none'}"
            )
    chosen = {n: m for n, m in found.items() if layers is None or n in layers}
    for name, module in chosen.items():
        if getattr(module, "groups", 1) != 1:
            raise ValueError(
                f"layer {name!r} is a convolution with groups={module.groups}, which cannot be "
                "pruned; leave it out with layers="
            )
    if not chosen:
        frozen = any(not m.weight.requires_grad for m in kinds.values())
        why = ": its layers are frozen (requires_grad=False)" if frozen else ""
        raise ValueError(f"{type(learner.model).__name__} has no layer that can be pruned{why}")
    return chosen


def check_untied(learner: MAML, layers: Layers) -> None:
    """Refuse layers whose weight another layer reads, too: their inputs are not all there are.

    One layer that is used twice is none of them: both of its inputs are seen.

    Raises
    ------
    ValueError
        Naming both layers.
    """
    for name, layer in layers.items():
        for other, module in learner.model.named_modules():
            if module is not layer and getattr(module, "weight", None) is layer.weight:
                raise ValueError(
                    f"layer {name!r} shares its weight with {other!r}, and a Hessian of the inputs "
                    "of one would ignore the other; leave it out with layers=, or take another "
                    "score with compensate=False"
                )


def _why(module: nn.Module | None) -> str:
    """Why a layer cannot be pruned, in words."""
    if module is None:
        return "the model has no such layer"
    if not isinstance(module, PRUNABLE):
        return f"only Conv2d and Linear can, it is {type(module).__name__}"
    if not module.weight.requires_grad:
        return "its weight is frozen (requires_grad=False)"
    return "its weight is not among the meta-parameters"


def free_parameters(learner: MAML) -> Params:
    """The model's parameters that are meta-learned: neither frozen nor a head at zero."""
    return {n: p for n, p in learner.meta_parameters().items() if n not in learner.learned_rates}


def parameter_name(layer: str, leaf: str) -> str:
    """The name of a layer's parameter; a model that is itself the layer has the name ''."""
    return f"{layer}.{leaf}" if layer else leaf


def prunable_parameters(learner: MAML, layers: Sequence[str] | None = None) -> list[str]:
    """Names of the weights and biases of :func:`prunable_layers`, in its order.

    A frozen bias of a layer whose weight is not stays as it is, and is none of them.
    """
    return [n for layer in prunable_layers(learner, layers) for n in free_leaves(learner, layer)]


def free_leaves(learner: MAML, layer: str) -> list[str]:
    """Names of a layer's weight and bias, as far as they are meta-learned."""
    free = free_parameters(learner)
    names = [parameter_name(layer, leaf) for leaf in ("weight", "bias")]
    return [name for name in names if name in free]


def patches(
    module: nn.Module, x: Tensor, patch_stride: int = 1, *, bias: bool | None = None
) -> Tensor:
    """The rows that a layer multiplies its weights by: ``[n, d]``, or ``[n, d + 1]`` with a bias.

    Parameters
    ----------
    module : Conv2d or Linear
        Its kernel, stride, padding and dilation are honored.
    x : Tensor [B, C_in, H, W] or [..., d]
        The layer's input.
    patch_stride : int, default 1
        Take every ``patch_stride``-th output row and column of a convolution, centered in the
        image: corners are mostly padding.
    bias : bool, optional
        Whether the bias counts as a weight; by default, if the layer has one.

    Returns
    -------
    Tensor
        In float64, one row per position of the output. Columns of a convolution are in the
        order ``(C_in, kh, kw)``, that of ``weight.flatten(1)``. The last column is the constant
        1, the bias's input, if it counts.

    Examples
    --------
    >>> conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4)
    >>> rows = patches(conv, x)
    >>> weights = torch.cat([conv.weight.flatten(1), conv.bias[:, None]], 1).double()
    >>> torch.allclose(rows @ weights.T, conv(x).flatten(2)[0].T.double(), atol=1e-5)
    True
    """
    x = x.detach()
    if isinstance(module, nn.Linear):
        rows = x.reshape(-1, x.shape[-1]).double()
    else:
        rows = _unfolded(module, x, patch_stride).double()
    counts = module.bias is not None if bias is None else bias
    return F.pad(rows, (0, 1), value=1.0) if counts else rows


def _unfolded(conv: nn.Conv2d, x: Tensor, patch_stride: int) -> Tensor:
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    first, steps = [], []
    sizes = zip(x.shape[2:], conv.kernel_size, conv.dilation, conv.stride, strict=True)
    for side, kernel, dilation, stride in sizes:
        last = (side - dilation * (kernel - 1) - 1) // stride  # position of the last output
        first.append(last % patch_stride // 2 * stride)
        steps.append(stride * patch_stride)
    x = x[:, :, first[0] :, first[1] :]
    columns = F.unfold(x, conv.kernel_size, conv.dilation, 0, steps)  # [B, d, positions]
    return columns.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def watch(
    learner: MAML,
    task: Task,
    layers: Layers,
    see: See,
    *,
    inner_steps: int | None = None,
    data: str = "support",
) -> None:
    """Adapt to a task, run the network with the adapted weights, show each layer's input.

    The network runs in evaluation mode, as when it predicts; the learner's own is not touched.

    ``see(layer, x)`` is called whenever a layer is, with the rows of ``x`` that belong to the
    task's support or query set.
    """
    # a private copy, with the adapted weights: hooks on the learner's own would be seen by others
    network = learner.adapt(task.support_x, task.support_y, steps=inner_steps).network
    like = next(network.parameters())
    support = as_float(task.support_x.to(like.device), like.dtype)
    query = as_float(task.query_x.to(like.device), like.dtype)
    forward, norm = functional(network), norm_of(network)
    beside = len(support) if data == "query" and norm == "support" else 0  # rows of the support
    own = {name: network.get_submodule(name) for name in layers}
    with _hooked(own, lambda name, x: see(name, x[beside:])):
        if data == "support":
            forward({}, support)
        else:
            query_outputs(forward, {}, support, query, norm)


@contextmanager
def _hooked(layers: Layers, see: See) -> Iterator[None]:
    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: see(name, args[0])

    hooks = [m.register_forward_pre_hook(hook_of(name)) for name, m in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_capture(learner: MAML, data: str = "support", patch_stride: int = 1) -> None:
    """Refuse what no layer input could be captured from, before any work."""
    if missing := [n for n in ("model", "adapt", "start", "set_masks") if not hasattr(learner, n)]:
        raise ValueError(
            f"learner must be MAML or one of its relatives, got {type(learner).__name__}, which "
            f"has no {missing[0]}()"
        )
    check_choice("data", data, DATA)
    check_count(patch_stride=patch_stride)


def layer_inputs(
    learner: MAML,
    task: Task,
    *,
    layers: Sequence[str] | None = None,
    inner_steps: int | None = None,
    data: str = "support",
    patch_stride: int = 1,
) -> dict[str, Tensor]:
    """The rows of every layer for one task: see :func:`patches`, and ``layer_hessians``.

    Examples
    --------
    >>> from metalearn_tut import models
    >>> x, y = torch.rand(5, 1, 28, 28), torch.arange(5)
    >>> rows = layer_inputs(MAML(models.Conv4(1, ways=5)), Task(x, y, x, y))
    >>> rows["blocks.1.conv"].shape  # 5 images of 14 x 14 positions, 32 channels of 3 x 3
    torch.Size([980, 288])
    """
    check_capture(learner, data, patch_stride)
    chosen = prunable_layers(learner, layers)
    has_bias = {name: len(free_leaves(learner, name)) == 2 for name in chosen}
    rows: dict[str, list[Tensor]] = {name: [] for name in chosen}

    def see(name: str, x: Tensor) -> None:
        rows[name].append(patches(chosen[name], x, patch_stride, bias=has_bias[name]))

    watch(learner, task, chosen, see, inner_steps=inner_steps, data=data)
    return {name: torch.cat(seen) for name, seen in rows.items()}
