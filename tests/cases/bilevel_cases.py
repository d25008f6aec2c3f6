"""Tiny networks and tasks in float64, and the bi-level loss written out (no tests here)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metalearn_tut import models, tasks
from metalearn_tut.tasks import TaskBatch

UNROLLED = ("functional", "higher", "vectorised")
WAYS = 3


def tasks_of(shape, tasks=2, shots=1, queries=2, seed=0):
    """Random inputs of ``shape``; each set holds every label."""
    generator = torch.Generator().manual_seed(seed)

    def part(n):
        x = torch.randn(tasks, WAYS * n, *shape, generator=generator, dtype=torch.float64)
        return x, torch.arange(WAYS).repeat_interleave(n).expand(tasks, -1)

    return TaskBatch(*part(shots), *part(queries))


def images(**options):
    return tasks_of((1, 16, 16), **options)


def vectors(**options):
    return tasks_of((5,), **{"shots": 2, "queries": 3, **options})


def seeded(make):
    """The model of ``make`` in float64, the same one every time; no parameter is zero."""
    torch.manual_seed(1)
    model = make().double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def conv4(norm="batch"):
    return seeded(lambda: models.Conv4(1, WAYS, width=4, norm=norm, image_size=16))


def mlp(*middle):
    return seeded(lambda: nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Linear(8, WAYS)))


def smooth_conv():
    def make():
        body = [nn.Conv2d(1, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Softplus(), nn.AvgPool2d(2)]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(36, WAYS))

    return seeded(make)


def easy_source():
    """Classes that differ by which quarter of the image is bright."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(96, 1, 16, 16, generator=generator)
    y = torch.arange(96) % 8
    for image, c in zip(x, y, strict=True):
        row, column = divmod(int(c), 4)
        image[0, 8 * row : 8 * row + 8, 4 * column : 4 * column + 4] += 0.6
    return tasks.from_arrays(x, y)


def parameters(model):
    return {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}


def bilevel_loss(
    model,
    theta,
    task,
    *,
    lr,
    steps,
    first_order=False,
    masks=None,
    groups=None,
    prox_weight=0.0,
    step_weights=None,
    loss=F.cross_entropy,
    inner_loss=None,
):
    """Query loss after the inner loop, line by line; ``lr(k, name)`` is a rate."""
    masks, inner_loss = masks or {}, inner_loss or loss
    one = torch.ones((), dtype=torch.float64)
    start = {n: p * masks.get(n, one) for n, p in theta.items()}
    phi, total = dict(start), 0.0

    def call(p, x, **kwargs):
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        return functional_call(model, {**p, **buffers}, (x,), kwargs)

    def query(p):
        if getattr(model, "norm", None) == "support":
            both, n = torch.cat([task.support_x, task.query_x]), len(task.support_x)
            return loss(call(p, both, n_support=n)[n:], task.query_y)
        return loss(call(p, task.query_x), task.query_y)

    for k in range(steps):
        for group in groups or [list(phi)]:
            phi = {n: p.clone() for n, p in phi.items()}  # no other one depends on these
            objective = inner_loss(call(phi, task.support_x), task.support_y)
            for n in group:
                objective = objective + prox_weight / 2 * ((phi[n] - start[n]) ** 2).sum()
            grads = torch.autograd.grad(
                objective, [phi[n] for n in group], create_graph=True, allow_unused=True
            )
            for n, g in zip(group, grads, strict=True):
                if g is not None:
                    g = g.detach() if first_order else g
                    phi = {**phi, n: phi[n] - lr(k, n) * g * masks.get(n, one)}
        if step_weights:
            total = total + step_weights[k] * query(phi)
    return total if step_weights else query(phi)


def written_out(model, batch, **settings):
    """Gradient of the mean over tasks of :func:`bilevel_loss`."""
    theta = parameters(model)
    losses = [bilevel_loss(model, theta, task, **settings) for task in batch]
    grads = torch.autograd.grad(sum(losses) / len(losses), list(theta.values()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(theta.items(), grads, strict=True)
    }


def difference(loss, at, eps=1e-5, seed=2):
    """Central difference of ``loss`` along a random direction, and that direction."""
    generator = torch.Generator().manual_seed(seed)
    along = {
        n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in at.items()
    }
    up, down = (
        loss({n: (p + s * eps * along[n]).detach().requires_grad_() for n, p in at.items()}).item()
        for s in (1, -1)
    )
    return (up - down) / (2 * eps), along


def along(gradients, direction):
    return sum((gradients[n] * direction[n]).sum().item() for n in direction)


class Louder(nn.Module):
    """Cross entropy that is another one in training mode, as label smoothing by chance is."""

    def forward(self, logits, y):
        return F.cross_entropy(3 * logits if self.training else logits, y)


def assert_same(found, expected, rtol=1e-10):
    """Tensor by tensor: distance at most ``rtol`` times the norm, and exact zeros nearly so."""
    assert set(found) == set(expected)
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, name
        distance = (found[name] - wanted).norm().item()
        assert distance <= rtol * wanted.norm().item() + 1e-13, (name, distance)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made inside the ``with`` block that are still held by someone."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            self.note(tensor, made_here=False)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            self.note(tensor, made_here=True)
        return out

    def note(self, tensor, made_here):
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            known = self.storages.get(storage._cdata)
            if known is None or known[0].expired():
                size = storage.nbytes() if made_here else 0
                self.storages[storage._cdata] = (StorageWeakRef(storage), size)

    def count(self):
        return sum(size for ref, size in self.storages.values() if not ref.expired())
