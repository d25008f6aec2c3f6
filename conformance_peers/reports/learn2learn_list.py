"""learn2learn: a clone calls the original's layers where a plain list holds them."""

import torch
from by_learn2learn import algorithm  # l2l.algorithms.MAML, where learn2learn cannot be built

torch.manual_seed(0)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.order = [self.layer]

    def forward(self, x):
        return self.order[0](x)


x, learner = torch.ones(1, 1), algorithm("maml").MAML(Net(), lr=0.1, allow_unused=True).clone()
before = learner(x).item()
learner.adapt(learner(x).sum())
got = learner(x).item()
print("right" if got < before else f"wrong: a step of descent left the output at {got:.4f}")
