"""`higher`, as its documentation shows it.

* The loop, with a backward pass for each task:
  <https://github.com/facebookresearch/higher/blob/15a247ac06cac0d22601322677daff0dcfff062e/examples/maml-omniglot.py#L133-L165>
* Learned rates, by `override`:
  <https://github.com/facebookresearch/higher/blob/15a247ac06cac0d22601322677daff0dcfff062e/higher/__init__.py#L58>
* First order, by `grad_callback`, which is there for whatever is done to the gradients:
  <https://github.com/facebookresearch/higher/blob/15a247ac06cac0d22601322677daff0dcfff062e/higher/optim.py#L191>
"""

from __future__ import annotations

import higher

from metalearn_tut.conformance import OPTIMIZERS

PACKAGES = ("higher",)


def detached(slopes):
    return [g if g is None else g.detach() for g in slopes]


def meta_gradient(
    module,
    loss,
    tasks,
    *,
    inner_lr,
    inner_steps,
    first_order=False,
    rates=None,
    optimizer="sgd",
):
    module.zero_grad()
    start = dict(module.named_parameters())
    kind, settings = OPTIMIZERS[optimizer]
    inner = kind([{"params": [p]} for p in module.parameters()], lr=inner_lr, **settings)
    leaves = {name: rate.clone().requires_grad_() for name, rate in (rates or {}).items()}
    for task in tasks:
        with higher.innerloop_ctx(module, inner, copy_initial_weights=False) as (net, step):
            for k in range(inner_steps):
                each = [leaves[name][k] if leaves[name].ndim else leaves[name] for name in leaves]
                value = loss(net(task.support_x), task.support_y)
                settings = {"grad_callback": detached if first_order else None}
                step.step(value, override={"lr": each} if rates else None, **settings)
            (loss(net(task.query_x), task.query_y) / len(tasks)).backward()
    found = {name: p.grad for name, p in start.items()}
    return found | {f"rates.{name}": rate.grad for name, rate in leaves.items()}
