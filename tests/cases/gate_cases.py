"""Small networks and images for the tests of gates and block voting (no tests here)."""

import copy

import torch
from torch import nn

from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.models import CifarResNet


def lively(network, seed=0):
    """A float64 copy whose every parameter and statistic is random: fresh ones hide errors."""
    network = copy.deepcopy(network).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith((".bias", "running_mean")) or ".head.weight" in name:
            tensor.normal_(0, 0.3, generator=generator)
    return network


def resnet(depth=20, classes=4, seed=0):
    torch.manual_seed(seed)
    return CifarResNet(depth, classes)


def gated(depth=20, classes=4, seed=0, **settings):
    torch.manual_seed(seed)
    return BlockGated(CifarResNet(depth, classes), **settings)


def images(rows=4, side=8, seed=1, channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, channels, side, side, generator=generator, dtype=dtype)


def labelled(rows=12, side=8, classes=4):
    """Images whose brightness says the class, as bytes."""
    labels = torch.arange(rows) % classes
    x = images(rows, side, dtype=torch.float32) * 60 + 50 * labels[:, None, None, None]
    return x.to(torch.uint8), labels


def same_state(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
