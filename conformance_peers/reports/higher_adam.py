"""higher 0.2.1: Adam adds eps before the correction of the bias, torch.optim.Adam after it."""

import higher
import torch

torch.manual_seed(0)

model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
adam = torch.optim.Adam(model.parameters(), lr=0.1, eps=0.1)
with higher.innerloop_ctx(model, adam) as (net, step):
    step.step(net(x).sum())
    got = next(net.parameters()).item()
model(x).sum().backward()
adam.step()
expected = model.weight.item()
print("right" if abs(got - expected) < 1e-6 else f"wrong: a step to {got:.4f}, not {expected:.4f}")
