"""Every engine against the loop written out, closed forms and finite differences."""

import copy

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import (
    UNROLLED,
    WAYS,
    LiveBytes,
    along,
    assert_same,
    bilevel_loss,
    conv4,
    difference,
    images,
    mlp,
    parameters,
    seeded,
    smooth_conv,
    vectors,
    written_out,
)
from torch import nn

from metalearn_tut import bilevel, models
from metalearn_tut.bilevel import adapt, meta_gradient, task_gradients
from metalearn_tut.tasks import Task, TaskBatch

unrolled = pytest.mark.parametrize("engine", UNROLLED)


# The engines agree with the loop written out


@pytest.mark.slow(quick=12)
@unrolled
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
def test_conv4_with_each_norm(norm, steps, engine):
    model, batch = conv4(norm), images()
    found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=steps, engine=engine)
    assert_same(found, written_out(model, batch, lr=lambda k, n: 0.4, steps=steps))


MLPS = {
    "plain": lambda: mlp(),
    "batch_norm": lambda: mlp(nn.BatchNorm1d(8)),
    "batch_norm, evaluated": lambda: mlp(nn.BatchNorm1d(8)).eval(),
    "batch_norm of the batch alone": lambda: mlp(nn.BatchNorm1d(8, track_running_stats=False)),
    "layer_norm": lambda: mlp(nn.LayerNorm(8)),
    "group_norm": lambda: mlp(nn.GroupNorm(2, 8)),
    "relu": lambda: mlp(nn.ReLU()),
}


@unrolled
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", MLPS)
def test_mlps(name, steps, engine):
    model, batch = MLPS[name](), vectors()
    found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=steps, engine=engine)
    assert_same(found, written_out(model, batch, lr=lambda k, n: 0.4, steps=steps))


@unrolled
@pytest.mark.parametrize("norm", ["batch", "support"])
def test_resnet12(norm, engine):
    model = seeded(lambda: models.ResNet12(WAYS, (2, 2, 4, 4), in_channels=1, norm=norm))
    found = meta_gradient(model, images(), inner_lr=0.1, inner_steps=1, engine=engine)
    assert_same(found, written_out(model, images(), lr=lambda k, n: 0.1, steps=1))


NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
MASKS = {"0.weight": (torch.arange(40).view(8, 5) % 3 > 0).double(), "2.bias": torch.eye(3)[0]}
PER_NAME = dict(zip(NAMES, (0.1, 0.2, 0.3, 0.4), strict=True))
SHAPES = {"0.weight": (8, 5), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
PER_WEIGHT = {
    n: torch.linspace(0.1, 0.5, torch.Size(s).numel()).double().view(s) for n, s in SHAPES.items()
}
SETTINGS = {
    "first_order": {"first_order": True},
    "masks": {"masks": MASKS},
    "groups": {"groups": [NAMES[2:], NAMES[:2]]},
    "one group": {"groups": [NAMES[2:]]},
    "prox_weight": {"prox_weight": 0.7},
    "step_weights": {"step_weights": [0.2, 0.5, 0.3]},
    "inner_loss": {"inner_loss": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.2)},
    "loss": {"loss": lambda x, y: F.mse_loss(x, F.one_hot(y, WAYS).to(x))},
    "all": {
        "masks": MASKS,
        "groups": [NAMES[2:], NAMES[:2]],
        "prox_weight": 0.7,
        "step_weights": [0.2, 0.5, 0.3],
    },
    "all, first order": {
        "masks": MASKS,
        "groups": [NAMES[2:], NAMES[:2]],
        "prox_weight": 0.7,
        "first_order": True,
    },
}


@unrolled
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, engine):
    model, batch, settings = mlp(), vectors(), SETTINGS[name]
    found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=3, engine=engine, **settings)
    assert_same(found, written_out(model, batch, lr=lambda k, n: 0.4, steps=3, **settings))


RATES = {
    "per parameter": (PER_NAME, lambda k, n: PER_NAME[n]),
    "per step": ([0.4, 0.2, 0.1], lambda k, n: [0.4, 0.2, 0.1][k]),
    "a tensor per step": (
        torch.tensor([0.5, 0.25, 0.125]),
        lambda k, n: [0.5, 0.25, 0.125][k],
    ),
    "per step and parameter": (
        [{n: r / (k + 1) for n, r in PER_NAME.items()} for k in range(3)],
        lambda k, n: PER_NAME[n] / (k + 1),
    ),
    "per weight": (PER_WEIGHT, lambda k, n: PER_WEIGHT[n]),
}


@unrolled
@pytest.mark.parametrize("name", RATES)
def test_rates(name, engine):
    model, batch, (given, rate) = mlp(), vectors(), RATES[name]
    found = meta_gradient(model, batch, inner_lr=given, inner_steps=3, engine=engine)
    assert_same(found, written_out(model, batch, lr=rate, steps=3))


@pytest.mark.parametrize("engine", ["functional", "vectorised"])
@pytest.mark.parametrize("first_order", [False, True])
def test_recomputing_changes_nothing(engine, first_order):
    settings = {"inner_steps": 3, "engine": engine, "first_order": first_order}
    settings["inner_lr"] = [0.4, 0.2, 0.1]
    kept = meta_gradient(conv4(), images(), **settings)
    again = meta_gradient(conv4(), images(), **settings, recompute=True)
    assert_same(again, kept, rtol=1e-12)


# Learned rates


def learned(metas):
    """Weights, and a rate for each parameter (its own name after ``rates.``)."""
    params = {n: p for n, p in metas.items() if not n.startswith("rates.")}
    return params, {n: metas[f"rates.{n}"] for n in params}


@unrolled
@pytest.mark.parametrize("first_order", [False, True])
def test_learned_rates_get_their_gradient(engine, first_order):
    model, batch = mlp(), vectors()
    rates = {f"rates.{n}": r.clone().requires_grad_() for n, r in PER_WEIGHT.items()}
    metas = {**parameters(model), **rates}
    found = task_gradients(
        model, batch, metas, learned, engine=engine, steps=2, first_order=first_order
    )
    for i, task in enumerate(batch):
        params, lr = learned(metas)
        loss = bilevel_loss(
            model, params, task, lr=lambda k, n, lr=lr: lr[n], steps=2, first_order=first_order
        )
        grads = torch.autograd.grad(loss, list(metas.values()))
        assert_same(
            {n: g[i] for n, g in found.gradients.items()}, dict(zip(metas, grads, strict=True))
        )
        assert found.losses[i].item() == pytest.approx(loss.item(), rel=1e-12)


@unrolled
def test_learned_rates_against_finite_differences(engine):
    model, batch = mlp(), vectors(tasks=1)
    metas = {**parameters(model), **{f"rates.{n}": r for n, r in PER_WEIGHT.items()}}

    def loss(metas):
        params, lr = learned(metas)
        return bilevel_loss(model, params, batch[0], lr=lambda k, n: lr[n], steps=2)

    expected, direction = difference(loss, metas)
    found = task_gradients(model, batch, metas, learned, engine=engine, steps=2).gradients
    assert along({n: g[0] for n, g in found.items()}, direction) == pytest.approx(
        expected, rel=1e-6
    )


# Finite differences


SMOOTH = {"mlp": (mlp, vectors), "conv": (smooth_conv, images), "Conv4": (conv4, images)}


@unrolled
@pytest.mark.parametrize("name", SMOOTH)
def test_finite_differences(name, engine):
    """The kinks of Conv4 are further away than the difference reaches."""
    make, data = SMOOTH[name]
    model, batch = make(), data(tasks=1)
    settings = {"lr": lambda k, n: 0.3, "steps": 2}
    eps = 1e-6 if name == "Conv4" else 1e-5
    expected, direction = difference(
        lambda p: bilevel_loss(model, p, batch[0], **settings), parameters(model), eps
    )
    found = meta_gradient(model, batch, inner_lr=0.3, inner_steps=2, engine=engine)
    assert along(found, direction) == pytest.approx(expected, rel=1e-6)


# The scalar quadratic


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x):
        return self.w - x


@pytest.mark.parametrize("engine", ["functional", "higher"])
@pytest.mark.parametrize(("steps", "second", "first"), [(1, 1.044, 1.160), (3, 0.9204354, 1.2626)])
def test_the_scalar_quadratic(engine, steps, second, first):
    a, b, zero = (torch.tensor([x], dtype=torch.float64) for x in (1.3, -0.4, 0.0))
    for first_order, expected in ((False, second), (True, first)):
        found = meta_gradient(
            Scalar(),
            Task(a, zero, b, zero),
            inner_lr=0.1,
            inner_steps=steps,
            engine=engine,
            first_order=first_order,
            loss=lambda x, y: (x - y).square().mean() / 2,
        )
        assert found["w"].item() == pytest.approx(expected, abs=1e-12)


# What any meta-gradient obeys


@unrolled
def test_no_step_gives_the_ordinary_gradient(engine):
    model, batch = conv4(), images()
    losses = [F.cross_entropy(model(t.query_x), t.query_y) for t in batch]
    grads = torch.autograd.grad(sum(losses) / 2, list(model.parameters()))
    expected = dict(zip(dict(model.named_parameters()), grads, strict=True))
    found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=0, engine=engine)
    assert_same(found, expected)


@unrolled
def test_the_order_of_tasks_does_not_matter(engine):
    model, batch = conv4(), images(tasks=3)
    order = [2, 0, 1]
    shuffled = TaskBatch.stack([batch[i] for i in order])

    def per_task(batch):
        metas = bilevel.parameters_of(model)
        start = lambda metas: (metas, 0.4)  # noqa: E731
        return task_gradients(model, batch, metas, start, engine=engine, steps=1)

    straight, permuted = per_task(batch), per_task(shuffled)
    assert_same(permuted.gradients, {n: g[order] for n, g in straight.gradients.items()}, 1e-12)
    torch.testing.assert_close(permuted.losses, straight.losses[order], rtol=1e-12, atol=0)
    torch.testing.assert_close(permuted.outputs, straight.outputs[order], rtol=1e-10, atol=1e-12)
    means = (
        meta_gradient(model, b, inner_lr=0.4, inner_steps=1, engine=engine)
        for b in (batch, shuffled)
    )
    assert_same(*means, rtol=1e-12)


@unrolled
def test_a_batch_gives_the_mean_of_its_tasks_however_they_come(engine):
    model, batch = mlp(), vectors(tasks=3)
    settings = {"inner_lr": 0.4, "inner_steps": 2, "engine": engine}
    together = meta_gradient(model, batch, **settings)
    singles = [meta_gradient(model, task, **settings) for task in batch]
    assert_same(together, {n: sum(g[n] for g in singles) / 3 for n in together}, rtol=1e-12)
    assert_same(meta_gradient(model, list(batch), **settings), together, rtol=0)


@unrolled
def test_masked_weights_have_no_meta_gradient(engine):
    found = meta_gradient(mlp(), vectors(), inner_lr=0.4, inner_steps=2, engine=engine, masks=MASKS)
    for name, mask in MASKS.items():
        assert torch.equal(found[name] == 0, mask == 0)


@unrolled
def test_a_linear_inner_loss_has_no_second_order_term(engine):
    model = seeded(lambda: nn.Sequential(nn.Linear(5, WAYS)))
    settings = {"inner_lr": 0.4, "inner_steps": 3, "engine": engine}
    settings["inner_loss"] = lambda outputs, y: (outputs * (y.unsqueeze(1) - 1)).mean()
    second = meta_gradient(model, vectors(), **settings)
    first = meta_gradient(model, vectors(), **settings, first_order=True)
    assert all(torch.equal(first[n], second[n]) for n in second)
    assert all(g.abs().sum() > 0 for g in second.values())


@unrolled
def test_only_the_head_is_adapted_when_it_is_the_only_group(engine):
    """ANIL: the embedding is computed once, at its start, and the head descends on top of it."""
    model, task = conv4("support"), images()[0]
    n, theta = len(task.support_x), parameters(model)
    features = torch.func.functional_call(
        _Embedding(model),
        {f"net.{k}": p for k, p in theta.items()},
        (torch.cat([task.support_x, task.query_x]), n),
    )
    head = (theta["head.weight"], theta["head.bias"])
    for _ in range(2):
        loss = F.cross_entropy(F.linear(features[:n], *head), task.support_y)
        grads = torch.autograd.grad(loss, head, create_graph=True)
        head = tuple(p - 0.4 * g for p, g in zip(head, grads, strict=True))
    loss = F.cross_entropy(F.linear(features[n:], *head), task.query_y)
    grads = torch.autograd.grad(loss, list(theta.values()))
    groups = [["head.weight", "head.bias"]]
    found = meta_gradient(model, task, inner_lr=0.4, inner_steps=2, engine=engine, groups=groups)
    assert_same(found, dict(zip(theta, grads, strict=True)))


class _Embedding(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, n_support):
        return self.net.embed(x, n_support)


# Nothing is changed, nothing piles up


@pytest.mark.parametrize("engine", [*UNROLLED, "implicit"])
@pytest.mark.parametrize("make", [lambda: mlp(nn.BatchNorm1d(8)), conv4])
def test_the_model_is_left_as_it_was(make, engine):
    model = make()
    batch = vectors() if isinstance(model, nn.Sequential) else images()
    before = copy.deepcopy(model.state_dict())
    prox_weight = {"prox_weight": 1.0} if engine == "implicit" else {}
    meta_gradient(model, batch, inner_lr=0.1, inner_steps=2, engine=engine, **prox_weight)
    adapt(model, batch[0].support_x, batch[0].support_y, inner_lr=0.1, inner_steps=2)
    after = model.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in model.parameters())
    assert model.training


def test_running_statistics_are_read_in_evaluation_and_never_written():
    def make():
        body = [nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(64, WAYS))

    model = seeded(make).eval()
    model[1].running_mean.normal_()
    before = copy.deepcopy(model.state_dict())
    for engine in UNROLLED:
        found = meta_gradient(model, images(), inner_lr=0.1, inner_steps=2, engine=engine)
        assert_same(found, written_out(model, images(), lr=lambda k, n: 0.1, steps=2))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_frozen_parameters_are_constants_of_the_inner_loop():
    model, batch = mlp(), vectors()
    model[0].requires_grad_(False)
    free = {"2.weight", "2.bias"}
    expected = written_out(mlp(), batch, steps=2, lr=lambda k, n: 0.4 if n in free else 0.0)
    for engine in UNROLLED:
        found = meta_gradient(model, batch, inner_lr=0.4, inner_steps=2, engine=engine)
        assert_same(found, {n: g for n, g in expected.items() if n in free})
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("engine", ["functional", "vectorised"])
def test_a_meta_gradient_leaves_only_itself_behind(engine):
    model, batch = conv4(), images()
    with LiveBytes() as live:
        grads = meta_gradient(model, batch, inner_lr=0.4, inner_steps=2, engine=engine)
    assert live.count() == sum(g.untyped_storage().nbytes() for g in grads.values())


def test_memory_held_while_looping_is_that_of_one_task():
    def most(tasks):
        peaks = []

        def loss(outputs, y):
            peaks.append(live.count())
            return F.cross_entropy(outputs, y)

        model, batch = conv4(), images(tasks=tasks)
        with LiveBytes() as live:
            meta_gradient(model, batch, inner_lr=0.4, inner_steps=2, loss=loss)
        return max(peaks)

    gradients = sum(p.numel() * 8 for p in conv4().parameters())
    assert most(6) - most(2) < 4 * (gradients + 200)  # a task leaves its gradient and outputs


@pytest.mark.slow
def test_evaluation_holds_one_adapted_dictionary_however_many_tasks():
    model = conv4("support")
    held = []
    with torch.no_grad(), LiveBytes() as live:
        for i in range(50):
            task = images(tasks=1, seed=i)[0]
            phi = adapt(model, task.support_x, task.support_y, inner_lr=0.4, inner_steps=3)
            held.append(live.count())
            del task
    assert len(set(held[1:])) == 1
    assert held[-1] - held[0] <= 2 * sum(p.numel() * 8 for p in phi.values())


# Adapting


@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
def test_adapting_takes_the_steps_of_the_inner_loop(norm):
    model, task = conv4(norm), images()[0]
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        leaves = {n: p.requires_grad_() for n, p in theta.items()}
        outputs = torch.func.functional_call(model, leaves, (task.support_x,))
        loss = F.cross_entropy(outputs, task.support_y)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        theta = {n: (p - 0.4 * g).detach() for (n, p), g in zip(leaves.items(), grads, strict=True)}
    settings = {"inner_lr": 0.4, "inner_steps": 2}
    tracked = adapt(model, task.support_x, task.support_y, **settings)
    with torch.no_grad():
        free = adapt(model, task.support_x, task.support_y, **settings)
    assert_same(tracked, theta, rtol=1e-13)
    assert_same(free, theta, rtol=1e-13)
    assert all(p.grad_fn is None and not p.requires_grad for p in free.values())
    grads = torch.autograd.grad(sum(p.sum() for p in tracked.values()), list(model.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("groups", [None, [["0.weight", "2.bias"], ["2.weight"]]])
def test_adapting_leaves_frozen_parameters_where_they_are(groups):
    model, task = mlp(), vectors()[0]
    model[0].requires_grad_(False)
    settings = {"inner_lr": 0.4, "inner_steps": 2}
    phi = adapt(model, task.support_x, task.support_y, groups=groups, **settings)
    free = [["2.weight", "2.bias"]] if groups is None else [["2.bias"], ["2.weight"]]
    wanted = adapt(mlp(), task.support_x, task.support_y, groups=free, **settings)
    assert_same(phi, wanted, rtol=0)
    assert torch.equal(phi["0.weight"], model[0].weight)


def test_images_of_bytes_are_those_of_their_floats():
    model = conv4()
    x = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    y = torch.arange(WAYS)
    as_bytes, floats = (
        adapt(model, images, y, inner_lr=0.4, inner_steps=1) for images in (x, x.double() / 255)
    )
    assert all(torch.equal(as_bytes[n], floats[n]) for n in floats)
    tasks = [Task(images, y, images, y) for images in (x, x.double() / 255)]
    assert_same(*(meta_gradient(model, t, inner_lr=0.4, inner_steps=1) for t in tasks), rtol=0)


def test_adapting_from_other_parameters_than_the_models():
    model, task = mlp(), vectors()[0]
    start = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    settings = {"inner_lr": 0.4, "inner_steps": 2}
    found = adapt(model, task.support_x, task.support_y, params=start, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert_same(found, adapt(model, task.support_x, task.support_y, **settings), rtol=0)


def test_a_head_of_zeros_may_have_another_number_of_rows():
    model, task = conv4("none"), images()[0]
    params = dict(model.named_parameters())
    params["head.weight"], params["head.bias"] = torch.zeros(5, 4).double(), torch.zeros(5).double()
    y = torch.tensor([4, 0, 2])
    phi = adapt(model, task.support_x, y, inner_lr=0.4, inner_steps=1, params=params)
    features = model.embed(task.support_x)
    pushed = F.one_hot(y, 5).double() - 1 / 5  # the gradient of cross entropy at equal logits
    expected = 0.4 / 3 * pushed.T @ features
    torch.testing.assert_close(phi["head.weight"], expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(phi["blocks.0.conv.weight"], params["blocks.0.conv.weight"])


# Bad input


def gradient(model=None, batch=None, **settings):
    model = mlp() if model is None else model
    batch = vectors() if batch is None else batch
    return meta_gradient(model, batch, **{"inner_lr": 0.4, "inner_steps": 1, **settings})


def with_tensors(**changed):
    batch = vectors()
    tensors = {n: getattr(batch, n) for n in ("support_x", "support_y", "query_x", "query_y")}
    return TaskBatch(**{n: changed.get(n, lambda t: t)(t.clone()) for n, t in tensors.items()})


def poke(value):
    def change(t):
        t[1, 2] = value
        return t

    return change


BAD = {
    "engine": ({"engine": "jax"}, r"engine must be one of 'functional', .* got 'jax'"),
    "steps": ({"inner_steps": -1}, r"inner_steps must be an integer >= 0, got -1"),
    "half a step": ({"inner_steps": 1.5}, r"inner_steps must be an integer >= 0, got 1.5"),
    "prox_weight": ({"prox_weight": -1.0}, r"prox_weight must be finite and >= 0, got -1.0"),
    "rate": ({"inner_lr": -0.1}, r"inner_lr must be finite and >= 0, got -0.1"),
    "rate nan": ({"inner_lr": float("nan")}, r"inner_lr must be finite and >= 0, got nan"),
    "rate text": ({"inner_lr": ["0.1"]}, r"inner_lr must be finite and >= 0, got '0.1'"),
    "rate matrix": ({"inner_lr": torch.ones(2, 2)}, r"inner_lr .* got a 2-D tensor"),
    "rates short": (
        {"inner_lr": [0.1, 0.2], "inner_steps": 3},
        r"inner_lr has 2 entries, fewer than inner_steps=3",
    ),
    "rates missing": ({"inner_lr": {"0.weight": 0.1}}, r"inner_lr has no rate for 0.bias, 2.bias"),
    "rates unknown": (
        {"inner_lr": {**PER_NAME, "head": 0.1}},
        r"inner_lr names no parameter of the model: head; its parameters are 0.weight, 0.bias",
    ),
    "rates shape": (
        {"inner_lr": {**PER_NAME, "0.bias": torch.ones(8, 1)}},
        r"inner_lr\['0.bias'\] must be a number or broadcast to shape \[8\], got shape \[8, 1\]",
    ),
    "masks unknown": ({"masks": {"w": torch.ones(1)}}, r"masks names no parameter .*: w; its"),
    "masks shape": (
        {"masks": {"0.weight": torch.ones(5)}},
        r"masks\['0.weight'\] must have shape \[8, 5\], got \[5\]",
    ),
    "groups": ({"groups": [["head"]]}, r"groups names no parameter of the model: head; its"),
    "step_weights": (
        {"step_weights": [1.0], "inner_steps": 2},
        r"step_weights must have one weight for each of the 2 inner steps .* got 1",
    ),
    "step_weights of no step": ({"step_weights": [], "inner_steps": 0}, r"at least one"),
    "recompute": (
        {"recompute": True, "engine": "higher"},
        r"recompute=True needs engine='functional' or 'vectorised', got 'higher'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        gradient(**settings)
    assert "\n" not in str(caught.value)


BAD_TASKS = {
    "high": ({"query_y": poke(3)}, r"query_y must hold labels in 0..2, got 3"),
    "negative": ({"support_y": poke(-1)}, r"support_y must hold labels in 0..2, got -1"),
    "ignored": ({"support_y": poke(-100)}, r"support_y must hold labels in 0..2, got -100"),
    "int32": ({"support_y": lambda t: t.int()}, r"support_y must be int64 labels, got torch.int32"),
    "float": ({"query_y": lambda t: t.float()}, r"query_y must be int64 labels, got torch.float32"),
    "nan": ({"support_x": poke(float("nan"))}, r"support_x must be finite, but it has NaN"),
    "inf": ({"query_x": poke(float("inf"))}, r"query_x must be finite, but it has NaN"),
    "empty": (
        {"query_x": lambda t: t[:, :0], "query_y": lambda t: t[:, :0]},
        r"query_y must not be empty",
    ),
}


@pytest.mark.parametrize("engine", [*UNROLLED, "implicit"])
@pytest.mark.parametrize("name", BAD_TASKS)
def test_bad_tasks(name, engine):
    changed, message = BAD_TASKS[name]
    with pytest.raises(ValueError, match=message) as caught:
        gradient(batch=with_tensors(**changed), engine=engine, prox_weight=1.0)
    assert "\n" not in str(caught.value)


def test_labels_are_checked_for_any_model_whose_outputs_can_be_counted():
    batch = images()
    with pytest.raises(ValueError, match=r"support_y must hold labels in 0..1, got 2"):
        gradient(seeded(lambda: models.Conv4(1, 2, width=4, image_size=16)), batch)
    batch.support_y[0, 0] = 9
    for model in (conv4(), models.CifarResNet(20, classes=3)):
        with pytest.raises(ValueError, match=r"support_y must hold labels in 0..2, got 9"):
            gradient(model, batch)


def test_bad_support_sets():
    x, y = vectors()[0].support_x, vectors()[0].support_y
    settings = {"inner_lr": 0.4, "inner_steps": 1}
    for bad_x, bad_y, message in (
        (x, y + 1, r"support_y must hold labels in 0..2, got 3"),
        (x, y - 1, r"support_y must hold labels in 0..2, got -1"),
        (x, y.double(), r"support_y must be int64 labels, got torch.float64"),
        (x * float("nan"), y, r"support_x must be finite"),
        (x[1:], y, r"support_x and support_y must have one row per example, got 5 .* and 6"),
    ):
        for params in (None, dict(mlp().named_parameters())):
            with pytest.raises(ValueError, match=message):
                adapt(mlp(), bad_x, bad_y, params=params, **settings)
    for name, value in (("inner_steps", -1), ("prox_weight", -1.0), ("masks", {"w": x})):
        with pytest.raises(ValueError, match=name):
            adapt(mlp(), x, y, **{**settings, name: value})


def test_second_order_traps_are_refused_where_they_matter():
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.Hardsigmoid(), nn.Linear(4, WAYS)))
    with pytest.raises(ValueError, match=r"no right second-order gradient through 1 \(Hardsig"):
        gradient(model)
    theta, batch = parameters(model), vectors(tasks=1)
    phi = adapt(model, batch[0].support_x, batch[0].support_y, inner_lr=0.4, inner_steps=1)
    outputs = torch.func.functional_call(model, phi, (batch[0].query_x,))
    grads = torch.autograd.grad(F.cross_entropy(outputs, batch[0].query_y), list(phi.values()))
    expected = dict(zip(theta, grads, strict=True))
    assert_same(gradient(model, batch, first_order=True), expected)
