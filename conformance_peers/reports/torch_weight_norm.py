"""torch: the second derivative of the fused weight_norm treats the norm as a constant."""

import torch
from torch.nn.utils.parametrizations import weight_norm

torch.manual_seed(0)
layer, x = weight_norm(torch.nn.Linear(3, 2)).double(), torch.randn(4, 3).double()
length, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1


def slopes(fused):
    weight = layer.weight if fused else direction * (length / direction.norm(dim=1, keepdim=True))
    value = torch.tanh(x @ weight.T).square().sum()
    slope = torch.autograd.grad(value, direction, create_graph=True)[0]
    return torch.autograd.grad(slope.square().sum(), direction)[0]


got, expected = slopes(True), slopes(False)
off = ((got - expected).norm() / expected.norm()).item()
print("right" if off < 1e-9 else f"wrong: a second derivative is off by {off:.2%}")
