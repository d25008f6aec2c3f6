"""Where weights come from: shared, normalized, masked, frozen, unused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from metalearn_tut.conformance.case import Case, numbers, regression


def network(change: Callable[[nn.Linear], nn.Module] = lambda layer: layer) -> nn.Sequential:
    """Three layers of three units; ``change`` does something to the middle one."""
    first, middle, last = (nn.Linear(3, o).double() for o in (3, 3, 1))
    return nn.Sequential(first, nn.Tanh(), change(middle), nn.Tanh(), last)


def tied() -> nn.Module:
    """One parameter in two layers."""
    model = network()
    model[2].weight = model[0].weight
    return model


def registered_twice() -> nn.Module:
    """One layer under two names."""
    model = network()
    model[2] = model[0]
    return model


class _CalledTwice(nn.Module):
    """One layer, one name, two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(3, 3).double(), nn.Linear(3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = torch.tanh(self.shared(x))
        return self.last(x)


class _Transposed(nn.Module):
    """The first layer's weight used a second time, without a call of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) @ self.first.weight)


class _InAList(nn.Module):
    """Registered layers, called from a plain list that holds them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()
        self.order = [self.first, torch.tanh, self.last]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.order:
            x = part(x)
        return x


class _AsMethod(nn.Module):
    """A bound method of its own, kept as an attribute: which body is run is chosen once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()
        self.body = self.smooth

    def smooth(self, x: Tensor) -> Tensor:
        """One of the bodies that could be chosen."""
        return torch.tanh(self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class _Penalized(nn.Module):
    """Outputs that hold a penalty on all parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        penalty = sum(p.square().sum() for p in self.parameters())
        return self.last(torch.tanh(self.first(x))) + 0.25 * penalty


class _OwnParameters(nn.Module):
    """Weights without layers: in a list, and of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(0.7 * numbers(3, 3, seed=i) for i in (5, 6))
        self.scale = nn.Parameter(numbers(3, seed=7))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return (x * self.scale).sum(1, keepdim=True)


class _WeightNorm(nn.Module):
    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return direction * (length / direction.norm(dim=1, keepdim=True))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.norm(dim=1, keepdim=True), weight


class _Mask(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", (weight.abs() > weight.abs().median()).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def weight_norm_in_python(layer: nn.Linear) -> nn.Linear:
    """The formula as a parametrization."""
    parametrize.register_parametrization(layer, "weight", _WeightNorm())
    return layer


def weight_norm_by_hook(layer: nn.Linear) -> nn.Linear:
    """The old spelling, deprecated and still in many networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


def masked(layer: nn.Linear) -> nn.Linear:
    """A fixed mask as a parametrization."""
    parametrize.register_parametrization(layer, "weight", _Mask(layer.weight.detach()))
    return layer


def pruned(layer: nn.Linear) -> nn.Linear:
    """The same mask by ``torch.nn.utils.prune``, which is a hook."""
    return prune.l1_unstructured(layer, "weight", amount=4)


def _spectral(training: bool) -> nn.Module:
    layer = partial(parametrizations.spectral_norm, n_power_iterations=40)
    return network(lambda middle: layer(middle)).train(training)


def _orthogonal() -> nn.Module:
    return network(partial(parametrizations.orthogonal, orthogonal_map="cayley"))


def _frozen() -> nn.Module:
    model = network()
    model[2].requires_grad_(False)
    return model


class _Unused(nn.Module):
    """A layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = network(), nn.Linear(3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def _case(name: str, build: Callable[[], nn.Module], told: str) -> Case:
    return Case(name, build, partial(regression, 3), told=told)


WEIGHTS = (
    _case("three linear layers", network, r"(?!)"),
    _case("one parameter in two layers", tied, "shared|tied|twice"),
    _case("one layer called twice", _CalledTwice, "shared|twice"),
    _case("one layer under two names", registered_twice, "shared|tied|twice|registered"),
    _case("a weight read without calling its layer", _Transposed, "shared|first|get_attr"),
    _case("layers called from a plain list", _InAList, "list|registered"),
    _case("a bound method as attribute", _AsMethod, "method|attribute"),
    _case("a penalty on self.parameters()", _Penalized, "parameters|square"),
    _case("parameters without a layer", _OwnParameters, "ParameterList|get_attr|weights|scale"),
    _case(
        "weight_norm (parametrization)",
        partial(network, parametrizations.weight_norm),
        "[Ww]eight_?[Nn]orm|Parametrized",
    ),
    _case("weight_norm (hook)", partial(network, weight_norm_by_hook), "[Ww]eight_?[Nn]orm|hook"),
    _case("weight norm in Python", partial(network, weight_norm_in_python), "Parametrized"),
    _case(
        "spectral_norm, training", partial(_spectral, True), "[Ss]pectral|Parametrized|in-?place"
    ),
    _case("spectral_norm, evaluated", partial(_spectral, False), "[Ss]pectral|Parametrized"),
    _case("orthogonal weights (Cayley)", _orthogonal, "[Oo]rthogonal|Parametrized"),
    _case("mask as a parametrization", partial(network, masked), "Parametrized"),
    _case("mask by nn.utils.prune", partial(network, pruned), "prune|hook"),
    _case("a frozen layer", _frozen, "frozen|require"),
    _case("a layer that nothing uses", _Unused, "unused|not have been used"),
)
