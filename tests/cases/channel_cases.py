"""Small channel-gated networks in float64, lively ones (no tests here)."""

import copy

import torch
from torch import nn

from metalearn_tut.gating import ChannelGatedConv4, ChannelGatedResNet12
from metalearn_tut.models import Conv4, ResNet12

NETWORKS = ("conv4", "resnet12")


def plain(kind="conv4", norm="none", ways=3, seed=0, **settings):
    """A network whose parameters are all random: zero heads and biases hide errors."""
    torch.manual_seed(seed)
    if kind == "conv4":
        network = Conv4(1, ways, width=4, norm=norm, image_size=16, **settings)
    else:
        network = ResNet12(ways, (4, 4, 6, 6), in_channels=1, norm=norm, **settings)
    network.double()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.add_((0.5 if name.startswith("head") else 0.1) * torch.randn_like(p))
    return network


def gated(kind="conv4", norm="none", open_bias=0.0, seed=0, **settings):
    """Its gates are about half open, and differ from image to image."""
    wrap = ChannelGatedConv4 if kind == "conv4" else ChannelGatedResNet12
    network = wrap(plain(kind, norm, seed=seed, **settings), open_bias=open_bias)
    torch.manual_seed(seed + 1)
    for gate in network.gates:
        nn.init.normal_(gate.inner.weight, std=2.0)
        nn.init.normal_(gate.outer.weight)
    return network


def images(rows=5, side=16, seed=1):
    """Images of different brightness, which is what a gate sees of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, side, side, generator=generator, dtype=torch.float64)
    return x + torch.linspace(-1, 1, rows, dtype=torch.float64).view(-1, 1, 1, 1)


def frozen(network, x):
    """Every task batch norm replaced by one with the statistics of ``x``: as deployed."""
    from metalearn_tut.models import deploy

    return deploy(network, {}, x)


def sliced(network, x, mask):
    """Logits of a Conv4 physically cut to the filters of ``mask``, one bool tensor a layer."""
    network = copy.deepcopy(network).ungated()
    kept = [m.nonzero().flatten() for m in mask]
    for i, block in enumerate(network.blocks):
        weight = block.conv.weight[kept[i]]
        block.conv.weight = nn.Parameter(weight if i == 0 else weight[:, kept[i - 1]])
        if block.conv.bias is not None:
            block.conv.bias = nn.Parameter(block.conv.bias[kept[i]])
        block.conv.out_channels = len(kept[i])
        if i:
            block.conv.in_channels = len(kept[i - 1])
        if not isinstance(block.norm, nn.Identity):
            for name in ("weight", "bias"):
                setattr(block.norm, name, nn.Parameter(getattr(block.norm, name)[kept[i]]))
            for name in ("running_mean", "running_var"):
                if hasattr(block.norm, name):
                    setattr(block.norm, name, getattr(block.norm, name)[kept[i]])
            block.norm.num_features = len(kept[i])
    network.head.weight = nn.Parameter(network.head.weight[:, kept[-1]])
    return network
