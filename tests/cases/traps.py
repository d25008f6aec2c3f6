"""Models whose second-order gradient goes wrong, and a way out of each (no tests here)."""

import contextlib
import copy
import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from meta_gradients import conv, images, mlp, vectors
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize, prune


class OwnWeightNorm(nn.Module):
    def forward(self, g, v):
        return v * (g / v.norm(dim=1, keepdim=True))

    def right_inverse(self, w):
        return w.norm(dim=1, keepdim=True), w


class OwnSpectralNorm(nn.Module):
    def forward(self, w):
        return w / torch.linalg.matrix_norm(w, 2)


class Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, w):
        return w * self.mask


class Relu6Sigmoid(nn.Module):
    def forward(self, x):
        return F.relu6(x + 3) / 6


class Words(nn.Module):
    """The sign of each feature as a word of two; a bag of words is their sum."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding, self.head = embedding, nn.Linear(4, 2)

    def forward(self, x):
        words = (x > 0).long() + 2 * torch.arange(10)
        bag = self.embedding(words)
        return self.head(torch.tanh(bag if bag.ndim == 2 else bag.sum(1)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(5, 4), nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        h = self.embed(x.reshape(-1, 2, 5))
        return self.head(self.attention(h, h, h, need_weights=False)[0].mean(1))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.head = nn.Linear(10, 10), nn.Linear(10, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def registered_twice():
    shared = nn.Linear(10, 10)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(10, 2))


def shared_activation():
    tanh = nn.Tanh()
    return nn.Sequential(nn.Linear(10, 8), tanh, nn.Linear(8, 8), tanh, nn.Linear(8, 2))


def tied_parameter():
    model = nn.Sequential(nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 10), nn.Linear(10, 2))
    model[2].weight = model[0].weight
    return model


def pruned():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def masked():
    model = mlp()
    mask = prune.l1_unstructured(copy.deepcopy(model[0]), "weight", 0.5).weight_mask
    parametrize.register_parametrization(model[0], "weight", Mask(mask))
    return model


def reparametrized(part):
    model = mlp()
    parametrize.register_parametrization(model[0], "weight", part)
    return model


def old_style(function, **kwargs):
    with warnings.catch_warnings():  # deprecated, and still what readers have
        warnings.simplefilter("ignore", FutureWarning)
        return mlp(first=function(nn.Linear(10, 8), **kwargs))


def spectral(train=True, hook=False):
    """Thirty power iterations, so that what is wrong is not that they have not converged."""
    kwargs = dict(n_power_iterations=30)
    if hook:
        model = old_style(nn.utils.spectral_norm, **kwargs)
    else:
        model = mlp(first=parametrizations.spectral_norm(nn.Linear(10, 8), **kwargs))
    with torch.no_grad():
        model(vectors(1)[0][0])  # the old style iterates for the first time here
    return model.train(train)


@dataclass
class Trap:
    """A model that an engine gets wrong, where, and a way out with its engine."""

    engine: str
    build: object
    name: str
    message: str
    way_out: object
    way_out_engine: str = ""
    loud: bool = False
    data: object = vectors
    context: object = field(default=contextlib.nullcontext)


def no_affine(norm):
    return lambda: conv(norm(4, affine=False, track_running_stats=False))


TRAPS = {
    **{
        f"weight_norm-{engine}": Trap(
            engine,
            lambda: mlp(first=parametrizations.weight_norm(nn.Linear(10, 8))),
            "0 (ParametrizedLinear)",
            r"v \* \(g / v\.norm\(dim=1, keepdim=True\)\)",
            lambda: reparametrized(OwnWeightNorm()),
        )
        for engine in ("functional", "higher", "vmap")
    },
    "weight_norm-hook": Trap(
        "functional",
        lambda: old_style(nn.utils.weight_norm),
        "0 (Linear)",
        "fused weight_norm is wrong",
        lambda: reparametrized(OwnWeightNorm()),
    ),
    "spectral_norm-functional": Trap(
        "functional", spectral, "0 (ParametrizedLinear)", r"call eval\(\)", lambda: spectral(False)
    ),
    "spectral_norm-higher": Trap(
        "higher",
        spectral,
        "0 (ParametrizedLinear)",
        r"w / torch\.linalg\.matrix_norm\(w, 2\)",
        lambda: reparametrized(OwnSpectralNorm()),
    ),
    "spectral_norm-hook": Trap(
        "functional",
        lambda: spectral(hook=True),
        "0 (Linear)",
        r"call eval\(\)",
        lambda: spectral(False, hook=True),
    ),
    **{
        f"attention-{engine}": Trap(
            engine,
            Attention,
            "attention (MultiheadAttention)",
            r"sdpa_kernel\(SDPBackend\.MATH\)",
            Attention,
            loud=True,
            context=lambda: sdpa_kernel(SDPBackend.MATH),
        )
        for engine in ("functional", "higher")
    },
    "hardsigmoid": Trap(
        "functional",
        lambda: mlp(nn.Hardsigmoid()),
        "1 (Hardsigmoid)",
        r"relu6\(x \+ 3\) / 6",
        lambda: mlp(Relu6Sigmoid()),
        loud=True,
    ),
    "embedding_bag": Trap(
        "functional",
        lambda: Words(nn.EmbeddingBag(20, 4, mode="sum")),
        "embedding (EmbeddingBag)",
        "use nn.Embedding",
        lambda: Words(nn.Embedding(20, 4)),
        loud=True,
    ),
    "prune-mask": Trap(
        "higher", pruned, "0 (Linear)", "masks are hooks", masked, data=lambda: vectors(1)
    ),
    "prune-engine": Trap(
        "higher",
        pruned,
        "0 (Linear)",
        "use engine='functional'",
        pruned,
        "functional",
        data=lambda: vectors(1),
    ),
    "hook-spectral_norm": Trap(
        "higher",
        lambda: spectral(False, hook=True),
        "0 (Linear)",
        "higher never calls hooks",
        lambda: spectral(False, hook=True),
        "functional",
        data=lambda: vectors(1),
    ),
    "vmap-batch_norm": Trap(
        "vmap",
        lambda: conv(nn.BatchNorm2d(4, track_running_stats=False)),
        "1 (BatchNorm2d)",
        "use GroupNorm, models.TaskBatchNorm2d",
        lambda: conv(nn.GroupNorm(2, 4)),
        data=images,
    ),
    "vmap-instance_norm": Trap(
        "vmap",
        lambda: conv(nn.InstanceNorm2d(4, affine=True)),
        "1 (InstanceNorm2d)",
        "a norm without weights",
        no_affine(nn.InstanceNorm2d),
        data=images,
    ),
    "vmap-layer_norm": Trap(
        "vmap",
        lambda: mlp(nn.LayerNorm(8)),
        "1 (LayerNorm)",
        "a norm without weights",
        lambda: mlp(nn.LayerNorm(8, elementwise_affine=False)),
    ),
    "vmap-running_statistics": Trap(
        "vmap",
        lambda: conv(nn.BatchNorm2d(4, affine=False)),
        "1 (BatchNorm2d)",
        "use track_running_stats=False",
        no_affine(nn.BatchNorm2d),
        loud=True,
        data=images,
    ),
}
