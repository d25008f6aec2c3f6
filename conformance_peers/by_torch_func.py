"""`torch.func`, as PyTorch's own examples show it.

* One task after another (`train`), with the functional call of today:
  <https://github.com/pytorch/pytorch/blob/main/functorch/examples/maml_omniglot/maml-omniglot-ptonly.py>
* All tasks at once (`loss_for_task`), `grad` and `vmap` inside, `backward` outside:
  <https://github.com/pytorch/pytorch/blob/main/functorch/examples/maml_omniglot/maml-omniglot-transforms.py>
* Batch norm under `vmap`, for networks in training mode:
  <https://docs.pytorch.org/docs/stable/func.batch_norm.html> (`replace_all_batch_norm_modules_`)
* Randomness under `vmap`:
  <https://docs.pytorch.org/docs/stable/func.ux_limitations.html#randomness>
"""

from __future__ import annotations

import torch
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

PACKAGES = ("torch",)


def rate_at(rates, name, step, inner_lr):
    if rates is None:
        return inner_lr
    return rates[name][step] if rates[name].ndim else rates[name]


def loop(module, loss, tasks, *, inner_lr, inner_steps, first_order=False, rates=None):
    module.zero_grad()
    metas = dict(module.named_parameters())
    leaves = rates and {name: rate.clone().requires_grad_() for name, rate in rates.items()}
    buffers = dict(module.named_buffers())
    for task in tasks:
        params = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for k in range(inner_steps):
            outputs = functional_call(module, (params, buffers), task.support_x)
            value = loss(outputs, task.support_y)
            settings = {"create_graph": not first_order, "allow_unused": True}
            found = torch.autograd.grad(value, list(params.values()), **settings)
            slopes = {n: g for n, g in zip(params, found, strict=True) if g is not None}
            new = {n: params[n] - rate_at(leaves, n, k, inner_lr) * g for n, g in slopes.items()}
            params = params | new
        outputs = functional_call(module, (params, buffers), task.query_x)
        (loss(outputs, task.query_y) / len(tasks)).backward()
    return gradients(metas, leaves)


def vmapped(module, loss, tasks, *, inner_lr, inner_steps, first_order=False, rates=None):
    module.zero_grad()
    metas = dict(module.named_parameters())
    leaves = rates and {name: rate.clone().requires_grad_() for name, rate in rates.items()}
    if module.training:
        replace_all_batch_norm_modules_(module)

    def loss_for_task(support_x, support_y, query_x, query_y):
        start = {name: p for name, p in module.named_parameters() if p.requires_grad}
        buffers = dict(module.named_buffers())

        def compute_loss(params, x, y):
            return loss(functional_call(module, (params, buffers), x), y)

        params = start
        for k in range(inner_steps):
            slopes = grad(compute_loss)(params, support_x, support_y)
            if first_order:
                slopes = {n: g.detach() for n, g in slopes.items()}
            params = {n: params[n] - rate_at(leaves, n, k, inner_lr) * slopes[n] for n in params}
        return compute_loss(params, query_x, query_y)

    names = ("support_x", "support_y", "query_x", "query_y")
    parts = [torch.stack([getattr(task, name) for task in tasks]) for name in names]
    vmap(loss_for_task, randomness="different")(*parts).mean().backward()
    return gradients(metas, leaves)


def gradients(metas, leaves):
    found = {name: p.grad for name, p in metas.items()}
    return found | {f"rates.{name}": rate.grad for name, rate in (leaves or {}).items()}
