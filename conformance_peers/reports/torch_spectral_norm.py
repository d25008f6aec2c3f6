"""torch: the second derivative of spectral_norm in training holds singular vectors constant."""

import torch
from torch.nn.utils.parametrizations import spectral_norm

torch.manual_seed(0)
layer = spectral_norm(torch.nn.Linear(3, 2), n_power_iterations=50).double()
x, original = torch.randn(4, 3).double(), layer.parametrizations.weight.original


def slopes(power_iteration):
    exact = original / torch.linalg.matrix_norm(original, 2)
    value = torch.tanh(x @ (layer.weight if power_iteration else exact).T).square().sum()
    slope = torch.autograd.grad(value, original, create_graph=True)[0]
    return slope, torch.autograd.grad(slope.square().sum(), original)[0]


(first, got), (same, expected) = slopes(True), slopes(False)
assert torch.allclose(first, same)
off = ((got - expected).norm() / expected.norm()).item()
print("right" if off < 1e-9 else f"wrong: a second derivative is off by {off:.2%}")
