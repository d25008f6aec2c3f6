"""Small networks as people write them, in every way that a layer can be held (no tests here).

``NETWORKS[name]()`` is a network for inputs of ``SHAPES[name]`` and three classes.
"""

import types
import weakref
from collections import defaultdict, deque, namedtuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from metalearn_tut import models

IMAGES, POINTS, WORDS = (2, 8, 8), (6,), (5,)


def points(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def conv(*layers):
    """A convolution, the layers in question, a head."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), *layers, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def mlp(*layers, width=8):
    return nn.Sequential(nn.Linear(6, width), *layers, nn.Tanh(), nn.Linear(width, 3))


class TiedDecoder(nn.Module):
    """An autoencoder whose decoder is the encoder transposed, as a function in a closure."""

    def __init__(self):
        super().__init__()
        encoder = nn.Linear(6, 8)
        self.encoder, self.head = encoder, nn.Linear(6, 3)
        self.decode = lambda h: F.linear(h, encoder.weight.t())

    def forward(self, x):
        return self.head(self.decode(torch.tanh(self.encoder(x))))


class TiedParameter(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


class UsedTwice(nn.Module):
    def __init__(self, norm=None):
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x)))
        for _ in range(2):
            x = torch.tanh(self.norm(self.middle(x)))
        return self.head(x)


class InAList(nn.Module):
    """Its layers are registered, and called from a plain list of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 3)])
        self.order = [(torch.tanh, self.layers[0]), (torch.nn.Identity(), self.layers[1])]

    def forward(self, x):
        for before, layer in self.order:
            x = layer(before(x))
        return x


Pair = namedtuple("Pair", "first last")


class Helper:
    """No module, but it holds one."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)


class Held(nn.Module):
    """Two registered layers, called by way of something else that holds them."""

    def __init__(self, hold):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.held = hold(self.body, self.head)

    def forward(self, x):
        first, last = self.held() if callable(self.held) else self.held
        return last(torch.tanh(first(x)))


def helper(body, head):
    return Helper(body), Helper(head).__call__


def default_argument(body, head):
    def both(first=body, *, last=head):
        return first, last

    return both


def weak(body, head):
    refs = weakref.ref(body), weakref.proxy(head)
    return lambda: (refs[0](), lambda x: F.linear(x, refs[1].weight, refs[1].bias))


class InNamespace(Held):
    def __init__(self):
        super().__init__(lambda body, head: types.SimpleNamespace(body=body, layers={head: 2.0}))

    def forward(self, x):
        return self.held.layers[self.head] * self.head(torch.tanh(self.held.body(x)))


class InDefaultDict(Held):
    def __init__(self):
        super().__init__(lambda body, head: defaultdict(list, body=body, head=head))

    def forward(self, x):
        return self.held["head"](torch.tanh(self.held["body"](x)))


class Projected(nn.Module):
    """Its weight is clamped in place before it is used."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        self.body.weight.data.clamp_(-0.2, 0.2)
        return self.head(torch.tanh(self.body(x)))


class WritesInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(x.sub_(0.5).mul_(2.0))


class NormAttribute(nn.Module):
    """Its ``norm`` is no word of this package."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.body, self.bn = norm, nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(144, 3)

    def forward(self, x):
        return self.head(F.relu(self.bn(self.body(x))).flatten(1))


class BoundMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.call = self.inner.forward

    def forward(self, x):
        return self.head(torch.relu(self.call(x)))


class Remembers(nn.Module):
    """It writes to itself while it runs: a counter, a list, a buffer, the last features."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.calls, self.seen = 0, []
        self.register_buffer("total", torch.zeros(6))

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        self.features = torch.tanh(self.body(x))
        self.total += self.features.detach().sum(0)
        return self.head(self.features)


class Hooked(nn.Module):
    """A forward hook that scales, and a pre-hook."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.body.register_forward_hook(lambda m, args, out: out * m.weight.mean())
        self.head.register_forward_pre_hook(lambda m, args: (torch.tanh(args[0]),))

    def forward(self, x):
        return self.head(self.body(x))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(2, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):  # (B, 2, 8, 8): a sequence of 64 pairs
        outputs, _ = self.rnn(x.flatten(2).transpose(1, 2)[:, :6])
        return self.head(outputs[:, -1])


class Attends(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.attend = nn.MultiheadAttention(2, 1, dropout=dropout, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)[:, :6]
        return self.head(self.attend(x, x, x)[0].mean(1))


class FunctionalNorm(nn.Module):
    """As in MAML-Pytorch: no layer shows that the batch decides."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(2, 4, 3), nn.Linear(144, 3)

    def forward(self, x):
        x = F.batch_norm(self.body(x), None, None, training=True)
        return self.head(F.relu(x).flatten(1))


class FunctionalDropout(nn.Module):
    """Dropout that no mode can turn off."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.dropout(torch.tanh(self.body(x)), 0.5, training=True))


class Words(nn.Module):
    def __init__(self, max_norm=None):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4, max_norm=max_norm), nn.Linear(20, 3)

    def forward(self, x):
        return self.head(self.embed(x).flatten(1))


class Unused(nn.Module):
    """A norm that no forward pass reaches."""

    def __init__(self):
        super().__init__()
        self.spare, self.body, self.head = (
            models.TaskBatchNorm2d(3),
            nn.Linear(6, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


class Halves(nn.Module):
    """Ghost batch norm: each half of the batch by itself, with one layer."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        parts = self.body(x).chunk(2)
        return self.head(torch.cat([self.norm(p) for p in parts]))


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w


def registered_twice():
    shared = nn.Linear(6, 6)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3))


def block_twice():
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    return nn.Sequential(block, block, nn.Linear(6, 3))


def filled(model, x):
    """A network whose running statistics were learned, and fixed."""
    model(x)
    return model.eval()


def parametrized():
    layer = nn.Linear(6, 8)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 3))


def replaced_forward():
    model = mlp()
    first, last = model[0], model[2]
    model.forward = lambda x: last(torch.sin(first(x)))
    return model


def pruned():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


NETWORKS = {
    "linear": lambda: nn.Linear(6, 3),
    "mlp": mlp,
    "dropout": lambda: mlp(nn.Dropout(0.5)),
    "alpha dropout": lambda: mlp(nn.AlphaDropout(0.5)),
    "dropout2d": lambda: conv(nn.Dropout2d(0.5)),
    "rrelu": lambda: mlp(nn.RReLU()),
    "layer norm": lambda: mlp(nn.LayerNorm(8)),
    "rms norm": lambda: mlp(nn.RMSNorm(8)),
    "group norm": lambda: conv(nn.GroupNorm(2, 4)),
    "local response norm": lambda: conv(nn.LocalResponseNorm(2)),
    "batch norm 1d": lambda: mlp(nn.BatchNorm1d(8)),
    "batch norm 1d, no affine": lambda: mlp(nn.BatchNorm1d(8, affine=False)),
    "batch norm 1d, no statistics": lambda: mlp(nn.BatchNorm1d(8, track_running_stats=False)),
    "batch norm 2d": lambda: conv(nn.BatchNorm2d(4)),
    "batch norm 2d, evaluated": lambda: conv(nn.BatchNorm2d(4)).eval(),
    "batch norm 2d, filled": lambda: filled(conv(nn.BatchNorm2d(4)), torch.randn(20, *IMAGES)),
    "batch norm 2d, cumulative": lambda: conv(nn.BatchNorm2d(4, momentum=None)),
    "batch norm 2d, no statistics": lambda: conv(nn.BatchNorm2d(4, track_running_stats=False)),
    "batch norm 3d": lambda: nn.Sequential(
        *(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(147, 3)),
    ),
    "two batch norms": lambda: conv(nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)),
    "instance norm": lambda: conv(nn.InstanceNorm2d(4, affine=True)),
    "instance norm, statistics": lambda: conv(nn.InstanceNorm2d(4, track_running_stats=True)),
    "batch norm and dropout": lambda: conv(nn.BatchNorm2d(4), nn.Dropout(0.3)),
    "task norm": lambda: conv(models.TaskBatchNorm2d(4)),
    "unused task norm": Unused,
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "old spectral norm": lambda: nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "orthogonal": lambda: nn.Sequential(
        parametrizations.orthogonal(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3)
    ),
    "parametrized": parametrized,
    "torch's pruning": pruned,
    "tied parameter": TiedParameter,
    "tied decoder": TiedDecoder,
    "two names": registered_twice,
    "a block under two names": block_twice,
    "used twice": UsedTwice,
    "batch norm used twice": lambda: UsedTwice(nn.BatchNorm1d(6)),
    "in a list": InAList,
    "named tuple": lambda: Held(Pair),
    "deque": lambda: Held(lambda *layers: deque(layers)),
    "helper": lambda: Held(helper),
    "default argument": lambda: Held(default_argument),
    "weak reference": lambda: Held(weak),
    "namespace": InNamespace,
    "default dictionary": InDefaultDict,
    "projected weight": Projected,
    "input in place": WritesInput,
    "norm='batch'": lambda: NormAttribute("batch"),
    "norm='group'": lambda: NormAttribute("group"),
    "bound method": BoundMethod,
    "replaced forward": replaced_forward,
    "remembers": Remembers,
    "hooks": Hooked,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "attention": Attends,
    "attention with dropout": lambda: Attends(0.5),
    "batch norm as a function": FunctionalNorm,
    "dropout as a function": FunctionalDropout,
    "ghost batch norm": Halves,
    "embedding": Words,
    "embedding, largest norm": lambda: Words(0.7),
    "Conv4, batch": lambda: models.Conv4(2, 3, width=4, norm="batch", image_size=16),
    "Conv4, support": lambda: models.Conv4(2, 3, width=4, norm="support", image_size=16),
    "Conv4, group": lambda: models.Conv4(2, 3, width=4, norm="group", image_size=16),
}


def build(name):
    """The network, the same one every time."""
    torch.manual_seed(3)
    return NETWORKS[name]()


def shape_of(name):
    if name.startswith("Conv4"):
        return (2, 16, 16)
    if name.startswith("embedding"):
        return WORDS
    first = [p.shape for p in build(name).parameters()]
    images = any(len(s) > 2 for s in first) or name in ("lstm", "gru") or "attention" in name
    return IMAGES if images else POINTS


def task_of(name, seed=0, shots=3):
    """Support and query of three classes that can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat_interleave(shots)
    shape = shape_of(name)
    if name.startswith("embedding"):
        x = torch.randint(0, 3, (2 * len(y), *shape), generator=generator)
        x = x + 3 * torch.cat([y, y])[:, None]
    else:
        x = torch.rand(2 * len(y), *shape, generator=generator)
        x[:, 0] += torch.cat([y, y]).view(-1, *(1,) * (x[:, 0].ndim - 1))
    return x[: len(y)], y, x[len(y) :], y
