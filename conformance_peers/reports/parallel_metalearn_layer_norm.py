"""parallel-metalearn: its two backends disagree about a network with a layer norm."""

import torch
from metalearn.algorithms import MAML
from metalearn.inner_optimizers import InnerSGD
from metalearn.loss import CategoricalAccuracy, CrossEntropy
from metalearn.model_wrappers import MAML_Model
from torch import nn


class Body(nn.Sequential):
    def forward(self, x, **flags):
        return super().forward(x)


found = {}
for backend in ("sequential", "vmap"):
    torch.manual_seed(0)
    model = MAML_Model(Body(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh()), Body(nn.Linear(4, 2)))
    inner = InnerSGD(model.get_fast_weights(), inner_lr=0.25)
    outer, loss = torch.optim.SGD(model.parameters(), lr=0), CrossEntropy(CategoricalAccuracy())
    parts = {"optimizer": outer, "inner_optimizer": inner, "support_loss_fn": loss}
    learner = MAML(model=model, inner_steps=2, backend=backend, **parts)
    x, y = torch.randn(2, 2, 4, 3), {"labels": torch.arange(4).expand(2, 4) % 2}
    learner.step(iter([(x[0], y, x[1], y)]))
    found[backend] = torch.cat([p.grad.flatten() for p in model.parameters()])
off = ((found["vmap"] - found["sequential"]).norm() / found["sequential"].norm()).item()
print("right" if off < 1e-5 else f"wrong: vmap and sequential differ by {off:.2%}")
