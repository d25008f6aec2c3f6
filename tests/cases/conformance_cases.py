"""Inner loops written out, right ones and planted errors, for the conformance suite (no tests)."""

import torch
from torch import nn
from torch.func import functional_call

from metalearn_tut.conformance import CASES, OPTIMIZERS

BY_NAME = {case.name: case for case in CASES}


def slopes_of(loss, params, **settings):
    settings = {"create_graph": True, "allow_unused": True} | settings
    found = torch.autograd.grad(loss, list(params.values()), **settings)
    pairs = zip(params.items(), found, strict=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}


class Plain:
    """Gradient descent through :func:`functional_call`; each step of it can be planted wrong."""

    def __call__(self, module, loss, tasks, *, inner_lr, inner_steps):
        start = {n: p for n, p in module.named_parameters() if p.requires_grad}
        total = 0.0
        for task in tasks:
            params, self.state = self.begin(start), {}
            for step in range(self.steps(inner_steps)):
                value = loss(self.call(module, params, task.support_x), task.support_y)
                slopes = self.slopes(value, params, step)
                params = self.update(params, slopes, inner_lr, step)
            total = total + loss(self.call(module, params, task.query_x), task.query_y)
        return self.answer(slopes_of(self.mean(total, len(tasks)), start, create_graph=False))

    def begin(self, start):
        return start

    def steps(self, inner_steps):
        return inner_steps

    def call(self, module, params, x):
        buffers = {n: b.clone() for n, b in module.named_buffers()}
        return functional_call(module, {**buffers, **params}, x)

    def slopes(self, value, params, step):
        return slopes_of(value, params)

    def update(self, params, slopes, inner_lr, step):
        return {n: p - inner_lr * slopes[n] for n, p in params.items()}

    def mean(self, total, count):
        return total / count

    def answer(self, gradients):
        return gradients


class FirstOrder(Plain):
    def slopes(self, value, params, step):
        return {n: g.detach() for n, g in slopes_of(value, params).items()}


class SecondStepFirstOrder(Plain):
    """Only from the second step on the inner gradient is detached."""

    def slopes(self, value, params, step):
        slopes = slopes_of(value, params)
        return {n: g.detach() for n, g in slopes.items()} if step else slopes


class OneStepTooMany(Plain):
    def steps(self, inner_steps):
        return inner_steps + 1


class SumOfTasks(Plain):
    def mean(self, total, count):
        return total


class WithoutHooks(Plain):
    def call(self, module, params, x):
        for part in module.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        return super().call(module, params, x)


class OfTheStart(Plain):
    """The weights that a call finds are the start's, wherever they come from a plain list."""

    def call(self, module, params, x):
        listed = getattr(module, "order", None)
        return module(x) if listed else super().call(module, params, x)


class Untied(Plain):
    """A shared tensor becomes two after the first step, each with its own partial gradient."""

    def begin(self, start):
        return start | {"2.weight": start["0.weight"].clone()}

    def call(self, module, params, x):
        buffers = dict(module.named_buffers())
        return functional_call(module, {**buffers, **params}, x, tie_weights=False)


class ZeroIsNoGradient(Plain):
    """What the support loss does not reach is forgotten in the query loss, too."""

    def slopes(self, value, params, step):
        settings = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(value, list(params.values()), **settings)
        self.state |= {n: g is None for n, g in zip(params, found, strict=True)}
        return slopes_of(value, params)

    def answer(self, gradients):
        unused = [n for n, gone in self.state.items() if gone]
        return gradients | {n: torch.zeros_like(gradients[n]) for n in unused}


class ThroughFloat16(Plain):
    def answer(self, gradients):
        return {n: g.half().double() for n, g in gradients.items()}


class LeftChanged(Plain):
    """Right gradients, from a network that stays adapted."""

    def __call__(self, module, *args, **settings):
        found = super().__call__(module, *args, **settings)
        with torch.no_grad():
            next(module.parameters()).add_(1e-3)
        return found


class AnotherTensor(Plain):
    def __call__(self, module, *args, **settings):
        found = super().__call__(module, *args, **settings)
        first = next(m for m in module.modules() if m._parameters)
        name, p = next(iter(first._parameters.items()))
        first._parameters[name] = nn.Parameter(p.detach().clone())
        return found


class NotANumber(Plain):
    def answer(self, gradients):
        return gradients | {next(iter(gradients)): next(iter(gradients.values())) * torch.nan}


class Optimized:
    """Momentum and Adam written out after the documentation of ``torch.optim``."""

    def __init__(self, detach=False, eps_inside=False):
        self.detach, self.eps_inside = detach, eps_inside

    def __call__(self, module, loss, tasks, *, inner_lr, inner_steps, optimizer):
        learner = Plain()
        learner.update = self.adam if "adam" in optimizer else self.momentum
        self.settings, self.learner = OPTIMIZERS[optimizer][1], learner
        return learner(module, loss, tasks, inner_lr=inner_lr, inner_steps=inner_steps)

    def kept(self, kind, step, new):
        """``new(old)`` of a moving average, remembered."""
        state = self.learner.state
        old = state.get(kind) if step else None
        state[kind] = {n: f(old and old[n]) for n, f in new.items()}
        return {n: v.detach() if self.detach else v for n, v in state[kind].items()}

    def momentum(self, params, slopes, inner_lr, step):
        m = self.settings["momentum"]
        new = {n: lambda v, g=g: g if v is None else m * v + g for n, g in slopes.items()}
        v = self.kept("v", step, new)
        if self.detach:  # the usual accident: the velocity is a constant, the new slope is not
            v = {n: v[n] - g.detach() + g for n, g in slopes.items()}
        return {n: p - inner_lr * v[n] for n, p in params.items()}

    def adam(self, params, slopes, inner_lr, step):
        eps, (b1, b2), t = self.settings.get("eps", 1e-8), (0.9, 0.999), step + 1
        first = {
            n: lambda v, g=g: (1 - b1) * g + (0 if v is None else b1 * v) for n, g in slopes.items()
        }
        second = {
            n: lambda v, g=g: (1 - b2) * g * g + (0 if v is None else b2 * v)
            for n, g in slopes.items()
        }
        m, v = self.kept("m", step, first), self.kept("s", step, second)
        correct = (1 - b2**t) ** 0.5
        inside = eps if self.eps_inside else eps * correct
        return {
            n: p - inner_lr * correct / (1 - b1**t) * m[n] / (v[n].sqrt() + inside)
            for n, p in params.items()
        }
