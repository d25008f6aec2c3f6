"""TorchOpt: Adam corrects its bias in float32 whatever the parameters are."""

import torch
import torchopt

torch.manual_seed(0)

model, x = torch.nn.Linear(1, 1, bias=False).double(), torch.ones(1, 1).double()
adam = torch.optim.Adam(model.parameters(), lr=0.1, eps=0.1)
model(x).sum().backward()
start = model.weight.item()
adam.step()
expected = model.weight.item()
model.weight.data.fill_(start)
torchopt.MetaAdam(model, lr=0.1, eps=0.1).step(model(x).sum())
off = abs(model.weight.item() - expected) / 0.1
print("right" if off < 1e-9 else f"wrong: in float64 a step is off by {off:.1e} of itself")
