"""higher: forward hooks are not called in the inner loop, so what they compute is missing."""

import higher
import torch

torch.manual_seed(0)

model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
model.register_forward_hook(lambda layer, given, output: 2 * output)
with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (net, _):
    expected, got = model(x).item(), net(x).item()
print("right" if expected == got else f"wrong: the same weights give {got:.4f}, not {expected:.4f}")
