"""What MetaGater does with one task: a loss with a price for open filters, in two stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel import Params, functional, inner_loop, trainable_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.bilevel.inner import Loss
from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.gating.gates import open_share
from metalearn_tut.gating.networks import ChannelGated
from metalearn_tut.scoring import scalar_loss
from metalearn_tut.tasks.task import Task

STAGES = ("backbone", "gates")
Noise = list[Tensor]


class Step(NamedTuple):
    """A step of the inner loop: ``names <- names - lr · grad_names loss(at)``.

    The parameters ``constant`` count as constants in it, though earlier steps made them.
    """

    loss: Loss
    at: Params
    names: Sequence[str]
    lr: float
    constant: frozenset[str]


@dataclass(frozen=True)
class Stages:
    """The inner loop and the losses of :class:`~metalearn_tut.gating.MetaGater`.

    Parameters
    ----------
    model, stages, backbone_gates, target, two_sided, detach_stage1, loss
        As for MetaGater, checked there.
    lr : dict
        Stage -> step size.
    how : str
        What gates do: "learned" or "soft".
    first_order : bool
        Whether inner gradients are constants.
    """

    model: ChannelGated
    loss: TaskLoss
    lr: dict[str, float]
    stages: tuple[str, ...]
    backbone_gates: str
    how: str
    target: float | None
    two_sided: bool
    detach_stage1: bool
    first_order: bool

    def groups(self) -> dict[str, list[str]]:
        """The names of the parameters that each stage moves."""
        names = list(trainable_of(self.model))
        gates = [name for name in names if name.startswith("gates.")]
        return {"backbone": [name for name in names if name not in gates], "gates": gates}

    def penalty(self, masks: Sequence[Tensor]) -> Tensor:
        """The price of open filters: their share R, or how far it is from its target."""
        share = open_share(masks)
        if self.target is None:
            return share
        return (share - self.target).abs() if self.two_sided else F.relu(share - self.target)

    def value(
        self,
        params: Params,
        x: Tensor,
        y: Tensor,
        noise: Noise,
        how: str = "learned",
        sparsity: float = 0.0,
        n_support: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``L + sparsity · penalty`` and the logits, of the rows after the first ``n_support``."""
        call = functional(_Running(self.model))
        named = {f"network.{n}": p for n, p in params.items()}
        logits, masks = call(named, x, n_support=n_support, how=how, noise=noise)
        logits, masks = logits[n_support:], [mask[n_support:] for mask in masks]
        value = scalar_loss(self.loss)(logits, y)
        if sparsity:
            value = value + sparsity * self.penalty(masks)
        return value, logits

    def query_value(
        self, params: Params, task: Task, noises: tuple[Noise, Noise], sparsity: float
    ) -> tuple[Tensor, Tensor]:
        """F and the query logits, normalized as the model's ``norm`` says."""
        rest = {"how": self.how, "sparsity": sparsity}
        if norm_of(self.model) != "support":
            return self.value(params, task.query_x, task.query_y, noises[1], **rest)
        x = torch.cat([task.support_x, task.query_x])
        noise = [torch.cat(pair) for pair in zip(*noises, strict=True)]
        n_support = len(task.support_x)
        return self.value(params, x, task.query_y, noise, **rest, n_support=n_support)

    def steps(
        self, params: Params, x: Tensor, y: Tensor, noise: Noise, sparsity: float
    ) -> Iterator[tuple[Step | None, Params]]:
        """Each step of the inner loop with the parameters after it, the start first."""
        groups, made = self.groups(), frozenset()
        yield None, params
        for stage in self.stages:
            names = groups[stage]
            constant = made.difference(names) if self.detach_stage1 else frozenset()
            at = {n: p.detach() if n in constant else p for n, p in params.items()}
            rest = {"how": self.how, "sparsity": sparsity}
            if stage == "backbone":
                rest = {"how": "open" if self.backbone_gates == "open" else self.how}
            loss = partial(_first, self.value, x=x, y=y, noise=noise, **rest)
            step = Step(loss, at, names, self.lr[stage], constant)
            stepped = inner_loop(
                loss, at, steps=1, lr=step.lr, groups=[names], first_order=self.first_order
            )
            params = {**params, **{name: stepped[name] for name in names}}
            made = made.union(names)
            yield step, params


class _Running(nn.Module):
    """``network.run`` as a module's call, for ``functional_call``."""

    def __init__(self, network: ChannelGated) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, **gating: Any) -> tuple[Tensor, list[Tensor]]:
        return self.network.run(x, **gating)


def _first(call: Any, params: Params, **arguments: Any) -> Tensor:
    return call(params, **arguments)[0]
