"""Small federations, and one whose every number is known in closed form (no tests here)."""

import numpy as np
import torch
from channel_cases import gated

from metalearn_tut import tasks
from metalearn_tut.federated import Federation, Node, by_classes, per_fed_avg
from metalearn_tut.gating import MetaGater
from metalearn_tut.learners.learner import TaskLosses

ALPHA = 0.3
ALL = {"fraction": 1.0, "local_steps": 1}  # everybody takes one step


def vectors(classes=4, images=24, features=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes * images) % classes
    x = torch.randn(len(y), features, generator=generator, dtype=torch.float64)
    return tasks.from_arrays(x + 0.5 * y[:, None], y)


def nodes(n=4, **options):
    return by_classes(vectors(), n, 2, unseen=0.0, **options).train


def maml_federation(n=4, **settings):
    """Per-FedAvg of a small network."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4)]
    learner = per_fed_avg(torch.nn.Sequential(*layers).double(), 0.2)
    settings = {"rounds": 3, "support": 4, "query": 5, "outer_lr": 0.1, **ALL, **settings}
    return Federation(learner, nodes(n), **settings)


def gater_federation(dtype=torch.float32, **settings):
    """MetaGater on images; without arguments, so that other processes can make it, too."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(48) % 4
    x = 0.3 * torch.rand(48, 1, 16, 16, generator=generator) + 0.2 * y.view(-1, 1, 1, 1)
    split = by_classes(tasks.from_arrays(x, y), 4, 2, unseen=0.25)
    network = gated("conv4", "support", seed=1, ways=4).to(dtype)
    learner = MetaGater(network, 0.1, sparsity=0.2, target=None, warmup=0.3)
    settings = {"rounds": 3, "support": 4, "query": 6, **ALL, "local_steps": 2, **settings}
    return Federation(learner, split.train, outer_lr=0.05, gate_outer_lr=0.2, **settings)


class Quadratic:
    """``F_i(theta) = L_i(theta - alpha grad L_i)``, ``L_i = (theta - a_i)' A_i (theta - a_i) / 2``.

    The node is known by its label.
    """

    def __init__(self, optima, hessians, start):
        self.optima, self.hessians = optima, hessians
        self.theta = start.clone().requires_grad_()

    def meta_parameters(self):
        return {"theta": self.theta}

    def task_losses(self, batch, progress=1.0):
        losses = []
        for labels in batch.query_y:
            A, d = self.hessians[labels[0]], self.theta - self.optima[labels[0]]
            moved = d - ALPHA * A @ d
            losses.append(moved @ A @ moved / 2)
        return TaskLosses(torch.stack(losses), None)


def quadratic_federation(hessians, sizes, **settings):
    """Node i has ``sizes[i]`` images; returns the federation and its optima ``[n, 2]``."""
    n = len(sizes)
    generator = torch.Generator().manual_seed(1)
    optima = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    source = tasks.from_arrays(np.zeros((n * max(sizes), 1)), np.arange(n * max(sizes)) % n)
    own = [Node(i, source, (i,), (np.arange(size),)) for i, size in enumerate(sizes)]
    learner = Quadratic(optima, hessians, torch.tensor([3.0, -2.0], dtype=torch.float64))
    settings = {"rounds": 1, "support": 1, "query": 1, "outer_lr": 0.2, **ALL, **settings}
    return Federation(learner, own, **settings), optima
