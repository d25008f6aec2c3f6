"""From a meta-learned network and one support set to an ordinary network for one task."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.models.norms import TaskBatchNorm2d


def deploy(model: nn.Module, params: Mapping[str, Tensor], support_x: Tensor) -> nn.Module:
    """An evaluation-mode copy of ``model`` for one task, which classifies each image alone.

    Every :class:`TaskBatchNorm2d` becomes an ``nn.BatchNorm2d`` that holds the statistics of
    the support set under the adapted parameters, layer by layer. So the network no longer
    needs the support set, and gives what ``model(cat([support_x, query_x]),
    n_support=len(support_x))`` gives for the query rows.

    Parameters
    ----------
    model : nn.Module
        The network; it is left as it is.
    params : mapping of str to Tensor
        Adapted parameters by name. Those absent keep the model's values; those of the
        linear layer ``head`` may have another number of rows (ways).
    support_x : Tensor [N·K, C, H, W]
        The task's support images, floating point.

    Raises
    ------
    ValueError
        If a name is not a parameter of ``model``, or a shape differs.

    Examples
    --------
    >>> from metalearn_tut.models import Conv4
    >>> network = deploy(Conv4(1, ways=5), {}, torch.rand(5, 1, 28, 28))
    >>> network(torch.rand(1, 1, 28, 28)).shape
    torch.Size([1, 5])
    """
    network = copy.deepcopy(model)
    _load(network, params)
    layers = [(p, m) for p, m in network.named_modules() if isinstance(m, TaskBatchNorm2d)]
    frozen: dict[nn.Module, nn.BatchNorm2d] = {}

    def freeze(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        frozen[layer] = _batch_norm(layer, args[0])

    for _, layer in layers:
        layer.register_forward_pre_hook(freeze)  # leaves with its layer
    with torch.no_grad():
        network(support_x)
    for path, layer in layers:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, frozen[layer])
    if isinstance(network, FewShotNetwork) and network.norm == "batch":
        network.norm = "support"
    return network.eval()


def _batch_norm(layer: TaskBatchNorm2d, x: Tensor) -> nn.BatchNorm2d:
    """An ordinary batch norm with the statistics of ``x [B, C, H, W]``."""
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    norm = nn.BatchNorm2d(layer.channels, layer.eps).to(x)
    norm.weight, norm.bias = layer.weight, layer.bias
    norm.running_mean, norm.running_var = mean, var
    return norm


def _load(network: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Replace the named parameters; the head may change its number of rows."""
    own = dict(network.named_parameters())
    for name, value in params.items():
        if name not in own:
            raise ValueError(f"params[{name!r}] is not a parameter of {type(network).__name__}")
        path, _, leaf = name.rpartition(".")
        free = 1 if path == "head" else 0  # leading dimensions that may differ
        if value.shape[free:] != own[name].shape[free:]:
            raise ValueError(
                f"params[{name!r}] must have shape {list(own[name].shape)}, got {list(value.shape)}"
            )
        setattr(network.get_submodule(path), leaf, nn.Parameter(value.detach().clone()))
    if isinstance(network, FewShotNetwork):
        network.ways = network.head.out_features = len(network.head.weight)
        if len(network.head.bias) != network.ways:
            raise ValueError("params must give head.weight and head.bias the same number of rows")
