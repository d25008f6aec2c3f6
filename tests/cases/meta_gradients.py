"""Bare models, their meta-gradient three ways, and its finite difference (no tests here)."""

import higher
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

STEPS, LR = 2, 0.3


def call(model, params, x):
    """The model as a function: its buffers are copied, so that nothing persists."""
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return functional_call(model, {**params, **buffers}, (x,))


def meta_loss(model, params, x, y, inner_grad):
    """Two steps on the support half, then the loss on the query half."""
    (support_x, query_x), (support_y, query_y) = x.chunk(2), y.chunk(2)

    def support_loss(p):
        return F.cross_entropy(call(model, p, support_x), support_y)

    for _ in range(STEPS):
        grads = inner_grad(support_loss, params)
        params = {name: p - LR * grads[name] for name, p in params.items()}
    return F.cross_entropy(call(model, params, query_x), query_y)


def autograd(loss, params):
    grads = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
    return dict(zip(params, grads, strict=True))


def by_loop(model, params, xs, ys):
    return sum(meta_loss(model, params, x, y, autograd) for x, y in zip(xs, ys, strict=True))


def by_vmap(model, params, xs, ys):
    def one(x, y):
        return meta_loss(model, params, x, y, lambda loss, p: grad(loss)(p))

    return vmap(one)(xs, ys).sum()


def by_higher(model, xs, ys):
    total = 0.0
    for x, y in zip(xs, ys, strict=True):
        optimiser = torch.optim.SGD(model.parameters(), LR)
        with higher.innerloop_ctx(model, optimiser, copy_initial_weights=False) as (net, step):
            for _ in range(STEPS):
                step.step(F.cross_entropy(net(x.chunk(2)[0]), y.chunk(2)[0]))
            total = total + F.cross_entropy(net(x.chunk(2)[1]), y.chunk(2)[1])
    return total


def own_parameters(model):
    return {name: p.detach().requires_grad_() for name, p in model.named_parameters()}


def gradient(model, engine, xs, ys):
    if engine == "higher":
        loss, at = by_higher(model, xs, ys), list(model.parameters())
    else:
        params = own_parameters(model)
        loss, at = {"functional": by_loop, "vmap": by_vmap}[engine](model, params, xs, ys), params
        at = list(at.values())
    grads = torch.autograd.grad(loss, at, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(at, grads, strict=True)]


def direction(model):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in model.named_parameters()
    }


def difference(model, xs, ys, eps=1e-5):
    """Central finite difference of the loop's meta-loss along ``direction(model)``."""
    params, along = own_parameters(model), direction(model)

    def at(shift):
        moved = {n: (p + shift * along[n]).detach().requires_grad_() for n, p in params.items()}
        return by_loop(model, moved, xs, ys).item()

    return (at(eps) - at(-eps)) / (2 * eps)


def slope(model, engine, xs, ys):
    """The engine's derivative of the summed meta-loss along ``direction(model)``."""
    pairs = zip(gradient(model, engine, xs, ys), direction(model).values(), strict=True)
    return sum((g * d).sum().item() for g, d in pairs)


# Models and data


def vectors(tasks=2):
    """Tasks of 6 + 6 examples with 10 features, two classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, 12, 10, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 2, (tasks, 12), generator=generator)


def images(tasks=2):
    x, y = vectors(tasks * 4)
    return x.reshape(tasks, -1)[:, : 12 * 36].reshape(tasks, 12, 1, 6, 6), y[:tasks]


def mlp(*middle, first=None):
    return nn.Sequential(first or nn.Linear(10, 8), *middle, nn.Tanh(), nn.Linear(8, 2))


def conv(*middle):
    return nn.Sequential(nn.Conv2d(1, 4, 3), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(64, 2))


def build(make):
    """The model of ``make`` in float64, the same one every time."""
    torch.manual_seed(3)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # double() would miss what hooks have stored
    try:
        return make()
    finally:
        torch.set_default_dtype(default)
