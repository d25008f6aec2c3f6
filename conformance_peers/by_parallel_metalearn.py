"""parallel-metalearn (imported as `metalearn`), as its documentation shows it.

* The parts ("Minimal Working Example") and the two backends ("Usage Example"):
  <https://github.com/Razani-Ali/parallel-metalearn/blob/214bcac821cd4c0fb21e32cd277cef73f7cc1e61/README.md>
* LSTM and GRU are translated; this fails on batch norm, so that is the library's own layer:
  <https://github.com/Razani-Ali/parallel-metalearn/blob/214bcac821cd4c0fb21e32cd277cef73f7cc1e61/metalearn/nn_models/pytorch2metalearn.py>
  <https://github.com/Razani-Ali/parallel-metalearn/blob/214bcac821cd4c0fb21e32cd277cef73f7cc1e61/metalearn/nn_models/CNN2D4L.py>
* Another loss is a subclass of `BaseLoss` ("Developer Note"):
  <https://github.com/Razani-Ali/parallel-metalearn/blob/214bcac821cd4c0fb21e32cd277cef73f7cc1e61/metalearn/model_wrappers/MAMLWrapper.py>
* Tasks of unequal size are padded, with `samples_mask`:
  <https://github.com/Razani-Ali/parallel-metalearn/blob/214bcac821cd4c0fb21e32cd277cef73f7cc1e61/metalearn/loss/CEloss.py>
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from metalearn.algorithms import MAML
from metalearn.inner_optimizers import InnerAdam, InnerSGD, InnerSGDMomentum
from metalearn.loss import BaseLoss, CategoricalAccuracy, CrossEntropy
from metalearn.model_wrappers import MAML_Model
from metalearn.nn_models import ModelTranslator
from metalearn.nn_models.basic_layers.BatchNormalization import BatchNorm
from torch import nn

from metalearn_tut.conformance import OPTIMIZERS

PACKAGES = ("parallel-metalearn",)
INNER = {"sgd": InnerSGD, "momentum": InnerSGDMomentum, "adam": InnerAdam}
INNER["adam_eps"] = InnerAdam
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
RECURRENT = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0"}
RECURRENT |= {"bias_ih": "bias_ih_l0", "bias_hh": "bias_hh_l0"}


class Backbone(nn.Module):
    """Any network, called without the flags that the library passes to every layer."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, **flags):
        return self.net(x)


class Head(nn.Module):
    def forward(self, x, **flags):
        return x


class Loss(BaseLoss):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, out_dict, targets, model_states=None, **flags):
        value = self.function(out_dict["logits"], targets["labels"])
        return value, value.detach()


def vmapped(module, loss, tasks, *, inner_lr, inner_steps, **options):
    return by_backend("vmap", module, loss, tasks, inner_lr, inner_steps, **options)


def sequential(module, loss, tasks, *, inner_lr, inner_steps, **options):
    return by_backend("sequential", module, loss, tasks, inner_lr, inner_steps, **options)


def by_backend(
    backend,
    module,
    loss,
    tasks,
    inner_lr,
    inner_steps,
    *,
    first_order=False,
    rates=None,
    optimizer="sgd",
    prox_weight=None,
):
    if prox_weight:
        return NotImplemented
    given, module = module, translated(module)
    model = MAML_Model(backbone=Backbone(module), head=Head())
    per_step = bool(rates) and any(rate.ndim for rate in rates.values())
    inner = INNER[optimizer](
        initial_fast_weights=model.get_fast_weights(),
        inner_lr=inner_lr,
        first_order=first_order,
        max_inner_steps=max(inner_steps, 1),
        per_layer=rates is not None,
        per_step=per_step,
        **OPTIMIZERS[optimizer][1],
    )
    own = {
        name: inner.lrs[f"lr_{f'backbone.net.{name}'.replace('.', '_')}"] for name in rates or {}
    }
    for name, rate in own.items():
        rate.data = rates[name].reshape(rate.shape).to(rate.dtype)
    masked = loss is F.cross_entropy
    algorithm = MAML(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        inner_optimizer=inner,
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()) if masked else Loss(loss),
        inner_steps=inner_steps,
        backend=backend,
        device=torch.device("cpu"),
    )
    prefix, metas = "backbone.net.", dict(model.named_parameters())
    algorithm.step(iter([batch(tasks)]), training=True)
    found = {n.removeprefix(prefix): p.grad for n, p in metas.items()}
    found = {before(n, given): g for n, g in found.items()}
    return found | {f"rates.{n}": r.grad.reshape(rates[n].shape) for n, r in own.items()}


def translated(module):
    """The network with the library's own layers in place of those that its engine cannot take."""
    if not any(isinstance(m, (*BATCH_NORMS, nn.LSTM, nn.GRU)) for m in module.modules()):
        return module
    dtype = next(module.parameters()).dtype
    module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BATCH_NORMS):
            own = BatchNorm(
                layer.num_features,
                affine=layer.affine,
                track_running_stats=layer.track_running_stats,
            )
            own.to(dtype).load_state_dict(layer.state_dict(), strict=False)
            module.set_submodule(name, own.train(layer.training))
    return ModelTranslator.convert_to_functional(module).to(dtype)


def before(name, module):
    """The name that a parameter had before its layer was translated."""
    layer, _, last = name.rpartition(".")
    recurrent = layer and isinstance(module.get_submodule(layer), (nn.LSTM, nn.GRU))
    return f"{layer}.{RECURRENT[last]}" if recurrent else name


def batch(tasks):
    """Support and query inputs and targets; a mask where the tasks differ in size."""
    parts = []
    for half in ("support", "query"):
        xs, ys = ([getattr(task, f"{half}_{part}") for task in tasks] for part in "xy")
        rows = max(map(len, xs))
        labels = {"labels": torch.stack([padded(y, rows) for y in ys])}
        if len({len(x) for x in xs}) > 1:
            masks = [padded(torch.ones(len(x), dtype=torch.bool), rows) for x in xs]
            labels |= {"samples_mask": torch.stack(masks)}
        parts += [torch.stack([padded(x, rows) for x in xs]), labels]
    return tuple(parts)


def padded(x, rows):
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])
