"""Tensors of a module under dotted names, such as those of another module's parameters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def register(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor a parameter (or else a buffer) that ``state_dict()`` calls ``name``.

    PyTorch refuses names with dots: the parts of one are modules inside one another.

    Examples
    --------
    >>> import torch
    >>> rates = nn.Module()
    >>> register(rates, "0.weight", torch.tensor(0.5))
    >>> dict(rates.state_dict())
    {'0.weight': tensor(0.5000)}
    """
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor)


def registered(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module that holds copies of these tensors as its buffers."""
    module = nn.Module()
    for name, tensor in tensors.items():
        register(module, name, tensor.detach().clone())
    return module
