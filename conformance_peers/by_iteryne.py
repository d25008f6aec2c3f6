"""iteryne, as its documentation shows it.

* The loop ("Manual training loop") and `MetaSGD` ("Variants"):
  <https://github.com/wonderwice/iteryne#readme>
* Frozen parameters: `adapt_names`, in the docstring of `iteryne.MAML`.
"""

from __future__ import annotations

from iteryne import MAML, MetaSGD

PACKAGES = ("iteryne",)


def meta_gradient(module, loss, tasks, *, inner_lr, inner_steps, first_order=False, rates=None):
    module.zero_grad()
    start = dict(module.named_parameters())
    if rates and any(rate.ndim for rate in rates.values()):
        return NotImplemented
    kind = MetaSGD if rates else MAML
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    maml = kind(module, inner_lr=inner_lr, first_order=first_order, adapt_names=names)
    own = {maml._lr_names[key]: rate for key, rate in maml.lrs.items()} if rates else {}
    for name, rate in own.items():
        rate.data.fill_(rates[name])
    for task in tasks:
        learner = maml.clone()
        for _ in range(inner_steps):
            learner.adapt(loss(learner(task.support_x), task.support_y))
        (loss(learner(task.query_x), task.query_y) / len(tasks)).backward()
    found = {name: p.grad for name, p in start.items()}
    return found | {f"rates.{name}": rate.grad.sum() for name, rate in own.items()}
