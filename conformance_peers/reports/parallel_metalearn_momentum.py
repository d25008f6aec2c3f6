"""parallel-metalearn 0.5.6: the inner optimizers with a state stop, or mix up rows and state."""

import torch
from metalearn.inner_optimizers import InnerSGDMomentum

weights = {"weight": torch.zeros(1, 3)}
inner = InnerSGDMomentum(weights, inner_lr=0.1)
try:
    moved, _ = inner(weights, {"weight": torch.ones(1, 3)}, inner.init_state(weights), step=0)
    print("right" if moved["weight"].shape == (1, 3) else "wrong: a step changes the shape")
except Exception as error:
    print(f"wrong: {type(error).__name__}: {error}")
