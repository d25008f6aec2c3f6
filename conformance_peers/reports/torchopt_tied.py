"""TorchOpt: a parameter that two layers share is two tensors after the first inner step."""

import torch
import torchopt

torch.manual_seed(0)

model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 2))
model[2].weight = model[0].weight
inner = torchopt.MetaSGD(model, lr=0.1)
for _ in range(2):
    inner.step(model(torch.ones(1, 2)).square().sum())
apart = (model[0].weight - model[2].weight).abs().max().item()
print("right" if apart == 0 else f"wrong: after two steps the shared weight differs by {apart:.4f}")
