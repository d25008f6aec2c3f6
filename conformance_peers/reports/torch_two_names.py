"""torch: functional_call leaves its tensors in a module with two names."""

import torch
from torch.func import functional_call

torch.manual_seed(0)

layer = torch.nn.Linear(1, 1)
model = torch.nn.Sequential(layer, layer)
weight, start = layer.weight, dict(model.named_parameters())
functional_call(model, {name: p + 1 for name, p in start.items()}, torch.ones(1, 1))
print("right" if layer.weight is weight else f"wrong: left behind is {layer.weight.item():.4f}")
