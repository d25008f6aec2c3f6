"""TorchOpt, as its documentation shows it.

* The loop, with one backward pass of all tasks:
  <https://github.com/metaopt/torchopt/blob/960fb0aa53f27bad1af0bdf018b5ad4be077949a/examples/few-shot/maml_omniglot.py#L130-L176>
* `MetaSGD(momentum=...)` and `MetaAdam`:
  <https://github.com/metaopt/torchopt/blob/960fb0aa53f27bad1af0bdf018b5ad4be077949a/docs/source/optimizer/optim.rst>
* Implicit, with as many steps of conjugate gradient as the problem needs:
  <https://github.com/metaopt/torchopt/blob/960fb0aa53f27bad1af0bdf018b5ad4be077949a/examples/iMAML/imaml_omniglot_functional.py#L259>
"""

from __future__ import annotations

import functorch
import torch
import torchopt

from metalearn_tut.conformance import OPTIMIZERS

PACKAGES = ("torchopt", "optree")
INNER = {"sgd": torchopt.MetaSGD, "momentum": torchopt.MetaSGD, "adam": torchopt.MetaAdam}
INNER["adam_eps"] = torchopt.MetaAdam


def meta_gradient(module, loss, tasks, *, inner_lr, inner_steps, optimizer="sgd", prox_weight=0.0):
    if prox_weight:
        return at_the_minimum(module, loss, tasks, inner_lr, inner_steps, prox_weight)
    module.zero_grad()
    start = dict(module.named_parameters())
    inner = INNER[optimizer](module, lr=inner_lr, **OPTIMIZERS[optimizer][1])
    begin = torchopt.extract_state_dict(module, by="reference", detach_buffers=True)
    inner_begin = torchopt.extract_state_dict(inner, by="reference")
    losses = []
    for task in tasks:
        for _ in range(inner_steps):
            inner.step(loss(module(task.support_x), task.support_y))
        losses.append(loss(module(task.query_x), task.query_y))
        torchopt.recover_state_dict(module, begin)
        torchopt.recover_state_dict(inner, inner_begin)
    torch.stack(losses).mean().backward()
    return {name: p.grad for name, p in start.items()}


def at_the_minimum(module, loss, tasks, inner_lr, inner_steps, prox_weight):
    call, start = functorch.make_functional(module)

    def objective(params, start, x, y):
        pull = sum(((p - s) ** 2).sum() for p, s in zip(params, start, strict=True))
        return loss(call(params, x), y) + prox_weight / 2 * pull

    @torchopt.diff.implicit.custom_root(
        functorch.grad(objective, argnums=0),
        argnums=1,
        solve=torchopt.linear_solve.solve_normal_cg(maxiter=20, atol=0),
    )
    def solved(params, start, x, y):
        optimizer = torchopt.sgd(lr=inner_lr)
        state = optimizer.init(params)
        with torch.enable_grad():
            for _ in range(inner_steps):
                slopes = torch.autograd.grad(objective(params, start, x, y), params)
                updates, state = optimizer.update(slopes, state)
                params = torchopt.apply_updates(params, updates)
        return params

    total = 0
    for task in tasks:
        begin = tuple(p.clone().detach_().requires_grad_() for p in start)
        params = solved(begin, start, task.support_x, task.support_y)
        total = total + loss(call(params, task.query_x), task.query_y) / len(tasks)
    names = [name for name, _ in module.named_parameters()]
    return dict(zip(names, torch.autograd.grad(total, start), strict=True))
