"""What ``requires_grad=False`` means for whole layers."""

from __future__ import annotations

from torch import nn


def any_frozen(*parts: nn.Module | nn.Parameter) -> bool:
    """Whether any parameter of these is frozen: then none of them may be taken away.

    Examples
    --------
    >>> conv, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
    >>> any_frozen(conv, norm), any_frozen(conv, norm.requires_grad_(False))
    (False, True)
    """
    return any(not p.requires_grad for part in parts for p in _parameters(part))


def fixed_layers(network: nn.Module) -> list[nn.Module]:
    """Layers and groups of layers with parameters, all of them frozen.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.ReLU(), nn.Linear(2, 2))
    >>> fixed_layers(network) == [network[0]]
    True
    """
    own = ((m, list(m.parameters())) for m in network.modules())
    return [m for m, params in own if params and not any(p.requires_grad for p in params)]


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]
