"""higher: a layer called from a plain list keeps its old weights, and is not adapted."""

import higher
import torch

torch.manual_seed(0)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.order = [self.layer]

    def forward(self, x):
        return self.order[0](x)


model, x = Net(), torch.ones(1, 1)
with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (net, step):
    before = net(x).item()
    step.step(net(x).sum())
    got = net(x).item()
print("right" if got < before else f"wrong: a step of descent left the output at {got:.4f}")
