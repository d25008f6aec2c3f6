"""torch: under vmap, norms with weights have a wrong second derivative."""

import torch
from torch.func import grad, vmap

torch.manual_seed(0)
xs, weight = torch.randn(2, 4, 3).double(), torch.randn(3).double().requires_grad_()


def value(weight, x):
    return torch.nn.functional.layer_norm(x * weight, (3,), weight).square().sum()


def squared_slope(x):
    return grad(value)(weight, x).square().sum()


got = torch.autograd.grad(vmap(squared_slope)(xs).sum(), weight)[0]
expected = torch.autograd.grad(sum(squared_slope(x) for x in xs), weight)[0]
off = ((got - expected).norm() / expected.norm()).item()
print("right" if off < 1e-9 else f"wrong: a second derivative is off by {off:.2%}")
