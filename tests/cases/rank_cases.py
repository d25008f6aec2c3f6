"""Random losses and ranks for the tests of rank losses (no tests here)."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True, database=None)
settings.load_profile("fast")


@st.composite
def problems(draw, distinct=True, largest=12):
    """Losses [n] in float64, and ranks 0 <= m < k <= n."""
    n = draw(st.integers(1, largest))
    loss = st.integers(0, 10_000 if distinct else 3)
    drawn = draw(st.lists(loss, min_size=n, max_size=n, unique=distinct))
    k = draw(st.integers(1, n))
    m = draw(st.integers(0, k - 1))
    return torch.tensor(drawn, dtype=torch.float64) / 1000, m, k


def gradient(aggregate, losses):
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(aggregate(leaf), leaf)[0]
