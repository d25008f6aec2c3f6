"""All tasks at once: each layer's batched form against one call per task, and what is refused."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import assert_same, conv4, images, mlp, seeded, vectors, written_out
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune

from metalearn_tut import models
from metalearn_tut.bilevel import meta_gradient, vectorised
from metalearn_tut.models.norms import TaskBatchNorm2d

TASKS = 3


class Function(nn.Module):
    """A plain function as a network, behind a layer that gives it something to differentiate."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)

    def forward(self, x, scale=2.0, n_support=None):
        return self.head((x + self.inner(x)) * scale - 1)


def conv(*tail, **options):
    return nn.Sequential(nn.Conv2d(2, 4, 3, **options), *tail)


def on_images(function):
    return lambda: Function(nn.Conv2d(2, 4, 3), function)


def on_features(function):
    return lambda: Function(nn.Linear(5, 8), function)


def evaluated(norm):
    norm.eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


FEATURES = {
    "linear": lambda: nn.Sequential(nn.Linear(5, 3)),
    "linear without bias": lambda: nn.Sequential(nn.Linear(5, 3, bias=False)),
    "batch_norm": lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)),
    "batch_norm evaluated": lambda: nn.Sequential(nn.Linear(5, 8), evaluated(nn.BatchNorm1d(8))),
    "batch_norm without weights": lambda: nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8, affine=False)
    ),
    "layer_norm": lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)),
    "layer_norm without weights": lambda: nn.Sequential(
        nn.Linear(5, 8), nn.LayerNorm(8, elementwise_affine=False)
    ),
    "layer_norm without bias": lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8, bias=False)),
    "group_norm": lambda: nn.Sequential(nn.Linear(5, 8), nn.GroupNorm(4, 8)),
    **{
        f"{type(norm).__name__} of its own eps": lambda norm=norm: nn.Sequential(
            nn.Linear(5, 8), norm
        )
        for norm in (nn.BatchNorm1d(8, 0.5), nn.LayerNorm(8, 0.5), nn.GroupNorm(4, 8, 0.5))
    },
    "residual": Residual,
    "flatten": lambda: nn.Sequential(nn.Linear(5, 8), nn.Flatten()),
    **{
        type(layer).__name__: lambda layer=layer: nn.Sequential(nn.Linear(5, 8), layer)
        for layer in (nn.ReLU(), nn.LeakyReLU(0.3), nn.ELU(), nn.GELU(), nn.SiLU(), nn.Tanh())
    },
    "Sigmoid": lambda: nn.Sequential(nn.Linear(5, 8), nn.Sigmoid()),
    "Softplus": lambda: nn.Sequential(nn.Linear(5, 8), nn.Softplus(2.0)),
    "leaky_relu": on_features(lambda x: F.leaky_relu(x, negative_slope=0.3)),
    "swish by hand": on_features(lambda x: x * torch.sigmoid(x)),
    "methods": on_features(lambda x: x.relu() + x.tanh() - x.sigmoid()),
}
IMAGES = {
    "conv": lambda: conv(),
    "conv strided": lambda: conv(stride=2, padding=1, dilation=2),
    "conv in groups": lambda: conv(groups=2),
    "conv without bias": lambda: conv(bias=False),
    "conv same": lambda: conv(padding="same"),
    "task_batch_norm": lambda: conv(TaskBatchNorm2d(4)),
    "batch_norm": lambda: conv(nn.BatchNorm2d(4)),
    "batch_norm evaluated": lambda: conv(evaluated(nn.BatchNorm2d(4))),
    "group_norm": lambda: conv(nn.GroupNorm(2, 4)),
    **{
        f"{type(norm).__name__} of its own eps": lambda norm=norm: conv(norm)
        for norm in (nn.BatchNorm2d(4, 0.5), TaskBatchNorm2d(4, 0.5), nn.GroupNorm(2, 4, 0.5))
    },
    "max_pool": lambda: conv(nn.MaxPool2d(2)),
    "avg_pool": lambda: conv(nn.AvgPool2d(2, stride=1)),
    "adaptive pool": lambda: conv(nn.AdaptiveAvgPool2d(2)),
    "flatten": lambda: conv(nn.Flatten()),
    "flatten by name": on_images(lambda x: x.flatten(start_dim=1)),
    "flatten to the end": on_images(lambda x: torch.flatten(x, 1, -1)),
    "mean over pixels": on_images(lambda x: x.mean((2, 3))),
    "mean by name": on_images(lambda x: torch.mean(x, dim=[-2, -1])),
    "pool functions": on_images(lambda x: F.avg_pool2d(F.max_pool2d(x, 2), kernel_size=2)),
    "scaled": on_images(lambda x: x * F.adaptive_avg_pool2d(x, 1)),
    "conv to features": lambda: conv(nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
}
CASES = [
    *((name, make, (5,)) for name, make in FEATURES.items()),
    *((name, make, (2, 6, 6)) for name, make in IMAGES.items()),
]


@pytest.mark.parametrize(("name", "make", "shape"), CASES, ids=[f"{n}{s}" for n, _, s in CASES])
def test_every_task_is_computed_with_its_own_weights(name, make, shape):
    """Outputs and gradients as from one call per task."""
    model = seeded(make)
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    params = {n: random(TASKS, *p.shape).requires_grad_() for n, p in model.named_parameters()}
    x = random(TASKS, 4, *shape).requires_grad_()
    together = vectorised(model, TASKS)(params, x)
    single = [
        functional_call(
            model,
            {**{n: p[t] for n, p in params.items()}, **_copies(model)},
            (x[t],),
        )
        for t in range(TASKS)
    ]
    expected = torch.stack(single)
    torch.testing.assert_close(together, expected, rtol=1e-11, atol=1e-12)
    weights = random(*expected.shape)
    leaves = {**params, "x": x}
    found, wanted = (
        dict(
            zip(
                leaves, torch.autograd.grad((y * weights).sum(), list(leaves.values())), strict=True
            )
        )
        for y in (together, expected)
    )
    assert_same(found, wanted, rtol=1e-9)


def _copies(model):
    return {n: b.clone() for n, b in model.named_buffers()}


def test_the_support_set_alone_gives_the_statistics():
    model, x = conv4("support"), images(tasks=TASKS).query_x
    params = {n: torch.stack([p] * TASKS).detach() for n, p in model.named_parameters()}
    forward = vectorised(model, TASKS)
    found = forward(params, x, n_support=2)
    expected = torch.stack([model(images, n_support=2) for images in x])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert (found - forward(params, x)).abs().max() > 1e-3


def test_a_support_passed_by_name_inside_the_model_arrives():
    class Named(models.Conv4):
        def embed(self, x, n_support=None):
            for block in self.blocks:
                x = F.relu(block.norm(block.conv(x), n_support=n_support))
            return x.mean((2, 3))

    model = seeded(lambda: Named(1, 3, width=4, norm="support", image_size=16))
    found = meta_gradient(model, images(), inner_lr=0.1, inner_steps=1, engine="vectorised")
    assert_same(found, written_out(model, images(), lr=lambda k, n: 0.1, steps=1), rtol=1e-9)


@pytest.mark.parametrize("tasks", [1, 5])
def test_one_task_or_many(tasks):
    for model, batch in ((conv4(), images(tasks=tasks)), (mlp(), vectors(tasks=tasks))):
        found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=2, engine="vectorised")
        assert_same(found, written_out(model, batch, lr=lambda k, n: 0.4, steps=2))


# What is refused, by name


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(5, 3), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layer(x) * self.scale


def tied():
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
    net[2].weight = net[0].weight
    return net


def hooked():
    net = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    prune.random_unstructured(net[1], "weight", amount=0.5)
    return net


def with_weight_norm():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 3)))


REFUSED = {
    "dropout": (lambda: mlp(nn.Dropout()), r"no batched form of 1 \(Dropout\) in Sequential; use"),
    "lstm": (lambda: nn.Sequential(nn.LSTM(5, 3)), r"no batched form of 0 \(LSTM\)"),
    "softmax": (on_features(lambda x: x.softmax(-1)), r"no batched form of softmax in Function"),
    "user function": (on_features(torch.cumsum), r"cannot follow|no batched form of cumsum"),
    "sum": (on_features(lambda x: x.sum(1)), r"no batched form of sum in Function"),
    "flatten all": (on_images(lambda x: x.flatten()), r"no batched form of flatten"),
    "flatten late": (on_images(lambda x: torch.flatten(x, 2)), r"no batched form of flatten"),
    "flatten early": (on_images(lambda x: torch.flatten(x, end_dim=1)), r"no batched form of flat"),
    "flatten layer": (lambda: conv(nn.Flatten(2)), r"no batched form of 1 \(Flatten\)"),
    "mean of rows": (on_images(lambda x: x.mean(0)), r"no batched form of mean"),
    "mean kept": (on_images(lambda x: x.mean((2, 3), True)), r"no batched form of mean"),
    "padding": (lambda: conv(padding=1, padding_mode="reflect"), r"of 0 \(Conv2d\)"),
    "layer_norm 2-D": (lambda: conv(nn.LayerNorm((4, 4))), r"no batched form of 1 \(LayerNorm\)"),
    "branch": (Branch, r"cannot follow Branch.forward \(.*\); use engine='functional'"),
    "own parameter": (OwnParameter, r"no batched form of scale in OwnParameter"),
    "tied": (tied, r"no batched form of the shared parameter 2.weight in Sequential"),
    "hooks": (hooked, r"no batched form of the hooks of 1 \(Linear\) in Sequential"),
    "parametrized": (with_weight_norm, r"no batched form of 0"),
    "nested": (
        lambda: nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 3), nn.Softmax(1))),
        r"no batched form of 1.1 \(Softmax\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_batched_form_is_named(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        vectorised(make(), TASKS)
    assert "use engine='functional'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.LayerNorm(4)])
def test_layers_that_would_read_the_wrong_dimension_are_refused_when_they_run(layer):
    model = conv(layer, nn.Flatten())
    params = {n: torch.stack([p] * TASKS) for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match=f"no batched form of {type(layer).__name__} on images"):
        vectorised(model, TASKS)(params, torch.rand(TASKS, 2, 2, 6, 6))


def test_inputs_of_other_shapes_are_refused():
    forward = vectorised(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), TASKS)
    with pytest.raises(ValueError, match=r"needs features .* or images .* got shape \[2, 6, 6\]"):
        forward({}, torch.rand(TASKS, 2, 6, 6))


@pytest.mark.parametrize("engine", ["functional", "vectorised"])
@pytest.mark.parametrize("options", [{"image_size": 32}, {"in_channels": 3}])
def test_images_of_another_shape_get_the_networks_own_message(engine, options):
    model = models.Conv4(**{"in_channels": 1, "ways": 3, "width": 4, "image_size": 16, **options})
    with pytest.raises(ValueError, match=r"x must be images \[B, .*\], got shape \[3, 1, 16, 16\]"):
        meta_gradient(model, images(), inner_lr=0.4, inner_steps=1, engine=engine)


# The traced graph is kept, and no longer than it is true


class Switch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.twice = nn.Linear(5, 3), False

    def forward(self, x):
        x = self.layer(x)
        return x + x if self.twice else x


def test_a_switch_turned_between_two_calls_is_seen():
    model, batch = seeded(Switch), vectors()
    for turned in (False, True, False):
        model.twice = turned
        found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=1, engine="vectorised")
        assert_same(found, written_out(model, batch, lr=lambda k, n: 0.4, steps=1))


def test_a_layer_exchanged_between_two_calls_is_seen():
    model, batch = mlp(), vectors()
    for layer in (nn.Tanh(), nn.Sigmoid(), nn.LayerNorm(8).double()):
        model[1] = layer
        found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=1, engine="vectorised")
        assert_same(found, written_out(model, batch, lr=lambda k, n: 0.4, steps=1))


def test_whatever_a_forward_reads_is_read_anew():
    class Steered(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.on, self.act = mlp(), [True], torch.tanh

        def forward(self, x):
            x = self.layers[2](self.act(self.layers[0](x)))
            return x * 2.0 if self.on[0] else x

    model, batch = Steered(), vectors()
    for change in (
        lambda: None,
        lambda: model.on.__setitem__(0, False),
        lambda: setattr(model, "act", torch.sigmoid),
    ):
        change()
        found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=1, engine="vectorised")
        assert_same(found, meta_gradient(model, batch, inner_lr=0.4, inner_steps=1))
    model.forward = lambda x: model.layers(x)
    found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=1)
    expected = meta_gradient(model.layers, batch, inner_lr=0.4, inner_steps=1)
    assert_same(found, {f"layers.{n}": g for n, g in expected.items()})
    with pytest.raises(ValueError, match="whose forward was replaced in this one object"):
        vectorised(model, 2)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_a_forward_that_draws_random_numbers_is_refused(draw):
    class Jittered(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * (1 + draw())

    with pytest.raises(ValueError, match="draws random numbers"):
        vectorised(Jittered(mlp()), 2)
