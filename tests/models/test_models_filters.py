"""Filters of any plain network: what is left is the network without them, or they are refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from metalearn_tut.models import CifarResNet, Conv4, ResNet12, deploy
from metalearn_tut.models.filters import filters_of, remove_filters


class Wider(Conv4):
    """A subclass with a layer more, and another way to the head."""

    def __init__(self):
        super().__init__(3, ways=4, width=8, norm="support", image_size=16)
        self.more = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def embed(self, x, n_support=None):
        for block in self.blocks[:3]:
            x = block(x, n_support)
        return F.elu(self.more(x)).mean((2, 3))


def vgg():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(), nn.Dropout()),
        *(nn.Flatten(), nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 3)),
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.one, self.norm1 = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two, self.norm2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x, features=False):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.two(torch.relu(self.norm1(self.one(x))))))
        x = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        return x if features else self.head(x)


class Dense(nn.Module):
    """Concatenations, with the input too, norms of what was concatenated, two readers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 6, 3, padding=1)
        self.norm, self.c = nn.BatchNorm2d(13), nn.Conv2d(13, 5, 1)
        self.d, self.head = nn.Conv2d(4, 4, 1), nn.Linear(9 * 16, 2)

    def forward(self, x):
        a = self.a(x)
        x = torch.cat([x, a], 1)
        x = self.norm(torch.cat((self.b(x), x), dim=1)).relu()
        x = F.max_pool2d(torch.cat([self.d(a), self.c(x)], 1), 4)
        return self.head(x.reshape(x.shape[0], -1))


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.GroupNorm(3, 6)
        self.depth, self.point = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.silu(self.depth(F.hardswish(self.norm(self.a(x)))))
        return self.head(torch.flatten(self.point(x).amax((-2, -1)), 1))


# network, layer: (filters to drop, what belongs to the layer's filters: name, first row)
NETWORKS = {
    "conv4": (
        lambda: Conv4(3, ways=4, width=8, norm="none", image_size=16),
        {"blocks.0.conv": ([0, 3], []), "blocks.3.conv": ([7], [])},
    ),
    "resnet12": (
        lambda: ResNet12(4, (4, 4, 4, 4), norm="support"),
        {"blocks.0.convs.0": ([0, 3], [("blocks.0.norms.0", 0)])},
    ),
    "cifar": (
        lambda: CifarResNet(20, 4),
        {f"blocks.{i}.conv1": ([0, 3, 15], [(f"blocks.{i}.bn1", 0)]) for i in (0, 2, 5)},
    ),
    "subclass": (
        Wider,
        {"blocks.2.conv": ([1], [("blocks.2.norm", 0)]), "more": ([0, 5], [])},
    ),
    "vgg": (
        vgg,
        {"0": ([2], [("1", 0)]), "4": ([2, 3, 6, 7], [("5", 0)]), "8": ([0], [("9", 0)])},
    ),
    "residual": (Residual, {"one": ([1, 4], [("norm1", 0)])}),
    "dense": (
        Dense,
        {
            "a": ([1, 2], [("norm", 9)]),
            "b": ([0, 5], [("norm", 0)]),
            "c": ([4], []),
            "d": ([0], []),
        },
    ),
    "separable": (Separable, {"a": ([2, 3], [("norm", 0), ("depth", 0)]), "point": ([3], [])}),
}


def lively(network, seed=0):
    """Float64, in evaluation mode, with every number random: zeros and ones would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for name, t in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var"):
                t.uniform_(0.5, 1.5, generator=generator)
            elif t.ndim:
                fan_in = max(1, t[0].numel())
                t.normal_(0.2 / fan_in, fan_in**-0.5, generator=generator)
    return network


def masks(network, dropped):
    """True where a filter is kept."""
    kept = {}
    for layer, (filters, _) in dropped.items():
        kept[layer] = torch.ones(len(network.get_submodule(layer).weight), dtype=torch.bool)
        kept[layer][filters] = False
    return kept


def zeroed(network, dropped):
    """The same network with everything of the dropped filters at zero."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for layer, (filters, others) in dropped.items():
            for name, first in ((layer, 0), *others):
                for p in network.get_submodule(name).parameters():
                    p[[first + f for f in filters]] = 0
    return network


def images(side=16, rows=5):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, 3, side, side, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_narrow_network_is_the_one_whose_filters_are_zero(name):
    make, dropped = NETWORKS[name]
    network, x = lively(make()), images()
    before = copy.deepcopy(network.state_dict())
    narrow = remove_filters(network, masks(network, dropped))
    expected = zeroed(network, dropped)(x)
    torch.testing.assert_close(narrow(x), expected, rtol=1e-10, atol=1e-10)
    assert (expected - network(x)).abs().max() > 1e-4
    assert type(narrow) is type(network)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    for layer, (filters, _) in dropped.items():
        assert narrow.get_submodule(layer).out_channels == (
            network.get_submodule(layer).out_channels - len(filters)
        )
    again = {n: len(narrow.get_submodule(n).weight) for n in dropped}
    assert {n: f.count for n, f in filters_of(narrow).items() if n in dropped} == again
    narrow.train()(x).sum().backward()
    assert all(p.grad is not None for n, p in narrow.named_parameters() if "blocks.3" not in n)


def test_every_filter_of_a_layer_can_be_the_one_that_goes():
    network, x = lively(Dense()), images()
    for layer in ("a", "b", "c", "d"):
        first = {"a": [("norm", 9)], "b": [("norm", 0)]}.get(layer, [])
        for f in range(len(network.get_submodule(layer).weight)):
            dropped = {layer: ([f], first)}
            narrow = remove_filters(network, masks(network, dropped))
            torch.testing.assert_close(narrow(x), zeroed(network, dropped)(x), rtol=1e-10, atol=0)


def test_a_deployed_network_can_lose_filters():
    network = lively(Conv4(3, ways=4, width=8, norm="support", image_size=16))
    deployed = lively(deploy(network, {}, images()))
    dropped = {"blocks.1.conv": ([0, 6], [("blocks.1.norm", 0)])}
    narrow = remove_filters(deployed, masks(deployed, dropped))
    expected = zeroed(deployed, dropped)(images())
    torch.testing.assert_close(narrow(images()), expected, rtol=1e-10, atol=1e-10)


def test_filters_go_in_groups_of_every_norm_behind_them():
    layers = (nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.GroupNorm(4, 8))
    network = lively(nn.Sequential(*layers, nn.Conv2d(8, 2, 1)))
    dropped = {"0": ([4, 5, 6, 7], [("1", 0), ("3", 0)])}
    narrow = remove_filters(network, masks(network, dropped))
    expected = zeroed(network, dropped)(images())
    torch.testing.assert_close(narrow(images()), expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="whole groups of 4 filters"):
        remove_filters(network, masks(network, {"0": ([4, 5], [])}))


# A sum needs all channels


def test_zeros_take_the_places_of_filters_in_a_sum():
    network, x = lively(Residual()), images()
    dropped = {"two": ([0, 3], [("norm2", 0)]), "stem": ([3], [("norm", 0)])}
    dropped |= {"one": ([1], [("norm1", 0)])}
    narrow = remove_filters(network, masks(network, dropped), widen=True)
    torch.testing.assert_close(narrow(x), zeroed(network, dropped)(x), rtol=1e-10, atol=1e-10)
    shapes = {n: tuple(getattr(narrow, n).weight.shape[:2]) for n in ("stem", "one", "two")}
    assert shapes == {"stem": (4, 3), "one": (5, 5), "two": (3, 5)}


def test_zeros_behind_a_norm_that_asks_for_the_support_are_refused():
    network = ResNet12(4, (4, 4, 4, 4), norm="support")
    keep = {"blocks.0.convs.2": torch.tensor([True, True, True, False])}
    with pytest.raises(ValueError, match=r"blocks\.0\.convs\.2 cannot lose filters: add"):
        remove_filters(network, keep, widen=True)


# What cannot be decided is refused


class Chain(nn.Module):
    """Two convolutions and something between them."""

    def __init__(self, between, width=4, **layers):
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 4, 1), nn.Conv2d(width, 2, 1), between
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.b(self.between(self, self.a(x))).mean((2, 3))


class Sized(Chain):
    """What comes out is divided by a number that is asked of the first channels."""

    def __init__(self, number):
        super().__init__(None)
        self.number = number

    def forward(self, x):
        x = self.a(x)
        return self.b(x).mean((2, 3)) / self.number(x)


def hooked():
    norm = nn.BatchNorm2d(4)
    norm.register_forward_hook(lambda m, args, out: out + 1)
    return norm


def replaced():
    norm = nn.BatchNorm2d(4)
    norm.forward = torch.sigmoid
    return norm


def hooked_relu():
    relu = nn.ReLU()
    relu.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    return relu


def replaced_relu():
    relu = nn.ReLU()
    relu.forward = torch.sigmoid
    return relu


def twice():
    norm = nn.BatchNorm2d(4)
    return Chain(lambda net, x: net.n(net.n(x)), n=norm)


UNDECIDED = {
    "a sum": (lambda: Chain(lambda net, x: x + x), "add needs all of its channels"),
    "a sigmoid": (lambda: Chain(lambda net, x: x.sigmoid()), "sigmoid needs all"),
    "a layer of sigmoids": (lambda: Chain(lambda net, x: net.s(x), s=nn.Sigmoid()), "s needs all"),
    "another order": (lambda: Chain(lambda net, x: x.flip(1)), "flip needs all"),
    "a shift": (lambda: Chain(lambda net, x: x.sub(1)), "sub needs all"),
    "a scale": (
        lambda: Chain(lambda net, x: x * net.scale, scale=nn.Parameter(torch.rand(4, 1, 1))),
        "mul needs all",
    ),
    "groups": (
        lambda: Chain(lambda net, x: net.g(x), g=nn.Conv2d(4, 4, 1, groups=2)),
        "g needs all",
    ),
    "a depth multiplier": (
        lambda: Chain(lambda net, x: net.g(x), 8, g=nn.Conv2d(4, 8, 1, groups=4)),
        "g needs all",
    ),
    "a norm without weights": (
        lambda: Chain(lambda net, x: net.n(x), n=nn.BatchNorm2d(4, affine=False)),
        "n needs all",
    ),
    "groups across what is concatenated": (
        lambda: Chain(
            lambda net, x: net.n(torch.cat([net.c(x), x], 1)),
            6, c=nn.Conv2d(4, 2, 1), n=nn.GroupNorm(2, 6),
        ),
        "n needs all",
    ),
    "rows put together": (lambda: Chain(lambda net, x: torch.cat([x, x], 0)), "cat needs all"),
    "two inputs put together, of sizes not known": (
        lambda: Chain(lambda net, x: torch.cat([x.abs()[:, :1], x, x.abs()[:, :2]], 1), 7),
        "abs_1 needs all",
    ),
    "a list from elsewhere": (
        lambda: Chain(lambda net, x: torch.cat(x.chunk(2, 1), 1)), "chunk needs all",
    ),
    "a linear layer along a side": (
        lambda: Chain(lambda net, x: net.f(x), f=nn.Linear(8, 8)), "f needs all",
    ),
    "a plain function of weights": (
        lambda: Chain(lambda net, x: F.conv2d(x, net.w), w=nn.Parameter(torch.rand(4, 4, 1, 1))),
        "conv2d needs all",
    ),
    "its own weight again": (
        lambda: Chain(lambda net, x: x * net.a.weight.sum()), "used twice",
    ),
    "a layer used twice": (twice, "n needs all"),
    "a hook": (lambda: Chain(lambda net, x: net.n(x), n=hooked()), "n needs all"),
    "a replaced forward": (lambda: Chain(lambda net, x: net.n(x), n=replaced()), "n needs all"),
    "a hook of a layer without weights": (
        lambda: Chain(lambda net, x: net.r(x), r=hooked_relu()), "r needs all",
    ),
    "a replaced forward of such a layer": (
        lambda: Chain(lambda net, x: net.r(x), r=replaced_relu()), "r needs all",
    ),
    "the number of channels": (lambda: Sized(lambda x: x.size(1)), "size needs all"),
    "the number of channels, by name": (lambda: Sized(lambda x: x.size(dim=1)), "size needs all"),
    "the number of channels in a shape": (lambda: Sized(lambda x: x.shape[1]), "getitem needs all"),
    "all sizes": (lambda: Sized(lambda x: torch.ones(x.shape).sum()), "ones needs all"),
    "features as the last size": (
        lambda: Sized(lambda x: x.flatten(1).shape[-1]), "getitem needs all",
    ),
    "an argument by name": (
        lambda: Chain(lambda net, x: net.n(input=x), n=nn.BatchNorm2d(4)), "n needs all",
    ),
    "a mean of channels": (
        lambda: Chain(lambda net, x: x.mean((1, 2), keepdim=True).expand(-1, 4, -1, -1)),
        "mean needs all",
    ),
    "a fixed number of rows": (
        lambda: Chain(lambda net, x: x.view(5, -1).view(5, 4, 8, 8)), "view needs all",
    ),
    "a weight that is computed": (
        lambda: Chain(
            lambda net, x: net.w(x), w=parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        ),
        "w needs all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_needs_all_channels_is_named(name):
    make, reason = UNDECIDED[name]
    network = make().eval()
    network(torch.rand(5, 3, 8, 8))  # it runs
    keep = {"a": torch.tensor([True, True, False, True])}
    with pytest.raises(ValueError, match=f"^a cannot lose filters: .*{reason}") as caught:
        remove_filters(network, keep)
    assert "\n" not in str(caught.value)
    narrow = remove_filters(network, {"a": torch.ones(4, dtype=torch.bool)})  # nothing to lose
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(narrow(x), network(x))


HARMLESS = {
    "rows": lambda x: x.shape[0],
    "pixels": lambda x: x.size(2) * x.shape[-1],
    "both sides": lambda x: x.size()[2:].numel(),
    "dimensions": lambda x: x.dim() + x.ndim,
    "kind": lambda x: torch.ones(1, dtype=x.dtype, device=x.device),
}


def unpacked(x):
    rows, _, height, width = x.shape
    return rows * height * width


@pytest.mark.parametrize("number", [*HARMLESS.values(), unpacked], ids=[*HARMLESS, "unpacked"])
def test_other_sizes_may_be_asked_for(number):
    network = Sized(number).double().eval()
    x = torch.rand(5, 3, 8, 8).double()
    narrow = remove_filters(network, {"a": torch.tensor([True, True, False, True])})
    with torch.no_grad():
        network.a.weight[2] = network.a.bias[2] = 0
    torch.testing.assert_close(narrow(x), network(x), rtol=0, atol=1e-10)
    assert narrow.a.out_channels == narrow.b.in_channels == 3


def test_a_forward_that_reads_a_layers_size_is_refused():
    network = Chain(lambda net, x: x)
    network.between = lambda net, x: net.r(x) if net.a.out_channels > 3 else x
    network.r = nn.ReLU()
    keep = {"a": torch.tensor([True, True, False, True])}
    with pytest.raises(ValueError, match="filters of Chain cannot be removed: its forward compute"):
        remove_filters(network, keep)


class Sum(nn.Module):
    """A sum of a layer's channels and those of a convolution, perhaps normalized."""

    def __init__(self, norm=None):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), norm
        self.layers = nn.ModuleList(m for m in (self.stem, self.conv, norm) if m)  # known twice
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.layers[0](x).relu()
        y = self.layers[1](x)
        y = y if self.norm is None else self.layers[2](y)
        return self.head((x + y).mean((2, 3)))


WITHOUT = {
    "no norm": lambda: None,
    "with weights": lambda: nn.BatchNorm2d(4),
    "without weights": lambda: nn.BatchNorm2d(4, affine=False),
    "groups without weights": lambda: nn.GroupNorm(2, 4, affine=False),
    "hooked": lambda: hooked(),
}


@pytest.mark.parametrize("norm", WITHOUT)
def test_zeros_take_the_places_behind_any_norm_and_under_every_name(norm):
    network, keep = lively(Sum(WITHOUT[norm]())), torch.tensor([True, False, True, True])
    x = torch.rand(5, 3, 8, 8).double()
    narrow = remove_filters(network, {"conv": keep}, widen=True)
    with torch.no_grad():
        network.conv.weight[1] = network.conv.bias[1] = 0
        if norm == "with weights":
            network.norm.weight[1] = network.norm.bias[1] = 0
    torch.testing.assert_close(narrow(x), network(x), rtol=0, atol=1e-10)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (narrow, network)]
    assert sizes[0] < sizes[1]


def test_norms_that_share_their_weights_are_behind_no_filter():
    norm = nn.BatchNorm2d(4)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 4, 1), norm)
    network, x = lively(network), torch.rand(5, 3, 8, 8).double()
    narrow = remove_filters(network, {"0": torch.tensor([True, False, True, True])}, widen=True)
    with torch.no_grad():
        network[0].weight[1] = network[0].bias[1] = 0
    torch.testing.assert_close(narrow(x), network(x), rtol=0, atol=1e-10)


def test_filters_that_leave_the_network_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(ValueError, match=r"^0 cannot lose filters: output needs all"):
        remove_filters(network, {"0": torch.tensor([True, True, False, True])})


def test_filters_of_a_grouped_convolution_stay():
    network = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match=r"^0 cannot lose filters: it has groups"):
        remove_filters(network, {"0": torch.tensor([True, True, False, True])})


def test_a_network_that_decides_by_values_is_refused():
    network = Chain(lambda net, x: x if x.sum() > 0 else -x)
    with pytest.raises(ValueError, match=r"filters of Chain cannot be removed: torch\.fx cannot"):
        remove_filters(network, {})


def test_an_option_has_its_default():
    found = filters_of(Residual())
    assert [n for n, f in found.items() if not f.fixed] == ["one"]
    assert found["two"].fixed == "add needs all of its channels" and found["two"].behind == "norm2"


def test_layers_that_are_not_there():
    with pytest.raises(ValueError, match=r"head cannot lose filters; those that can are one$"):
        remove_filters(Residual(), {"head": torch.ones(3, dtype=torch.bool)})


def test_frozen_readers_beside_and_modes_survive():
    network = lively(Separable())
    network.depth.requires_grad_(False)
    network.norm.train()
    keep = {"a": torch.tensor([True, True, False, False, True, True])}
    with pytest.raises(ValueError, match=r"a keeps all .* of norm or of depth or of point"):
        remove_filters(network, keep)
    network.depth.requires_grad_(True)
    network.point.bias.requires_grad_(False)
    network.head.weight.grad = torch.ones(3, 4).double()
    narrow = remove_filters(network, keep)
    assert [m.training for m in narrow.modules()] == [m.training for m in network.modules()]
    assert [n for n, p in narrow.named_parameters() if not p.requires_grad] == ["point.bias"]
    assert narrow.head.weight.grad is None and network.head.weight.grad is not None
