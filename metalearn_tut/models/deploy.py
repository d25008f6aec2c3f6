"""From a meta-learned network and one support set to an ordinary network for one task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn_tut.models.bound import replaced, with_tensors, without_statistics
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.models.norms import TaskBatchNorm2d
from metalearn_tut.models.proof import prove_alone, prove_equal

Norm = TaskBatchNorm2d | _BatchNorm


def deploy(
    model: nn.Module,
    params: Mapping[str, Tensor],
    support_x: Tensor,
    *,
    expected: Tensor | None = None,
) -> nn.Module:
    """An evaluation-mode copy of ``model`` for one task, which classifies each image alone.

    Every :class:`~metalearn_tut.models.TaskBatchNorm2d`, and every batch norm of PyTorch that
    has no statistics of its own, becomes one that holds the statistics of the support set under
    the adapted parameters, layer by layer. So the network no longer needs the support set, and
    gives what ``model(cat([support_x, query_x]), n_support=len(support_x))`` gives for the query
    rows. Before it is returned it is run on the support set, together and image by image.

    Parameters
    ----------
    model : nn.Module
        The network; it is left as it is, and shares no parameter with the result.
    params : mapping of str to Tensor
        Adapted parameters by name. Those absent keep the model's values; those of the
        linear layer ``head`` of a network of this package may have another number of rows (ways).
    support_x : Tensor [N·K, ...]
        The task's support inputs, as the network reads them.
    expected : Tensor [N·K, ...], optional
        What is predicted for them; by default what the network computes for them in evaluation
        mode, in one batch.

    Raises
    ------
    ValueError
        If a name is not a parameter of ``model``, or a shape differs; if the network cannot be
        deployed, since its answer to an image depends on other images, or on chance: the
        message names the layer where it can be told.

    Examples
    --------
    >>> from metalearn_tut.models import Conv4
    >>> network = deploy(Conv4(1, ways=5), {}, torch.rand(5, 1, 28, 28))
    >>> network(torch.rand(1, 1, 28, 28)).shape
    torch.Size([1, 5])
    """
    _check_shapes(model, params)
    fresh = {
        n: nn.Parameter(params.get(n, p).detach().clone(), requires_grad=p.requires_grad)
        for n, p in model.named_parameters()
    }
    # what a layer rounds to inside autocast is no part of its weights
    with torch.no_grad(), torch.autocast(support_x.device.type, enabled=False):
        lost = without_statistics(model)
        network = with_tensors(model, fresh, training=False, by_batch=lost)
        if isinstance(network, FewShotNetwork) and isinstance(network.head, nn.Linear):
            network.ways = network.head.out_features = len(network.head.weight)
        if expected is None:
            expected = with_tensors(network, {})(support_x.clone())
        network = with_statistics(network, lambda net: net(support_x.clone()))
        if isinstance(network, FewShotNetwork) and network.norm == "batch":
            network.norm = "support"
        prove_alone(network, support_x)
        prove_equal(network, support_x, expected)
    return network


def with_statistics(network: nn.Module, run: Callable[[nn.Module], Any]) -> nn.Module:
    """A copy whose task-dependent batch norms hold from now on the statistics of one run.

    ``run(network)`` calls the network on the support set. A layer that is not reached then goes,
    and one that is called more than once stays: it would need several statistics.
    """
    layers = [m for m in network.modules() if _needs_statistics(m)]
    if not layers:
        return network
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda m, args: seen[m].append(args[0])) for layer in layers
    ]
    try:
        run(network)
    finally:
        for hook in hooks:
            hook.remove()
    parts: dict[nn.Module, nn.Module] = {}
    for layer, inputs in seen.items():
        if not inputs:
            parts[layer] = nn.Identity()
        elif len(inputs) == 1:
            parts[layer] = _holding(layer, inputs[0])
    return replaced(network, parts)


def _needs_statistics(layer: nn.Module) -> bool:
    if isinstance(layer, TaskBatchNorm2d):
        return True
    return isinstance(layer, _BatchNorm) and layer.running_mean is None


def _holding(layer: Norm, x: Tensor) -> nn.Module:
    """An ordinary batch norm with the statistics of ``x [B, C, ...]``."""
    var, mean = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0)
    if isinstance(layer, TaskBatchNorm2d):
        norm: nn.Module = nn.BatchNorm2d(layer.channels, layer.eps, affine=False)
        norm.affine = True  # by the layer's own, which in a private copy are plain tensors
        norm._parameters.update(layer._parameters)
        norm.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=x.device)
    else:
        norm = with_tensors(layer, {})
    norm.track_running_stats = True
    norm.running_mean, norm.running_var = mean, var
    return norm.eval()


def _check_shapes(model: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Refuse names and shapes that are not the model's; the head may have other rows."""
    own = dict(model.named_parameters())
    free: Collection[str] = ()
    if isinstance(model, FewShotNetwork):
        free = [n for n in own if n.startswith("head.")]
    for name, value in params.items():
        if name not in own:
            raise ValueError(f"params[{name!r}] is not a parameter of {type(model).__name__}")
        first = 1 if name in free else 0  # leading dimensions that may differ
        if value.shape[first:] != own[name].shape[first:]:
            raise ValueError(
                f"params[{name!r}] must have shape {list(own[name].shape)}, got {list(value.shape)}"
            )
    rows = {len(params.get(n, own[n])) for n in free}
    if len(rows) > 1:
        raise ValueError("params must give head.weight and head.bias the same number of rows")
