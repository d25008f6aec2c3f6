"""Learners that are small enough to be exported within seconds."""

import torch
from torch import nn

from metalearn_tut import MAML


def layers(ways=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, ways))


def small(**settings):
    return MAML(layers(), 0.5, 2, **settings)


class Embedding(nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(4, 5)

    def embed(self, x):
        return self(x)
