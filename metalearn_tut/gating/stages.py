"""What MetaGater does with one task: a step of the backbone, a step of the gates, a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.bilevel import Params, inner_loop, trainable_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.bilevel.inner import Loss
from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.checks import check_choice
from metalearn_tut.gating.channel_gate import open_share
from metalearn_tut.gating.networks import ChannelGated
from metalearn_tut.models.bound import with_tensors
from metalearn_tut.scoring import check_loss, scalar_loss
from metalearn_tut.tasks.task import Task

STAGES = ("backbone", "gates")
KINDS = (*STAGES, "joint")
Noise = list[Tensor]


@dataclass(frozen=True)
class Stages:
    """The inner loop and the losses of :class:`~metalearn_tut.gating.MetaGater`.

    Parameters
    ----------
    model, loss, inner_lr, gate_lr, stages, backbone_gates, target, two_sided, detach_stage1
        As for MetaGater.
    gate_mode : {"learned", "soft"}
        What gates do where they are not open.
    first_order : bool
        Whether inner gradients are constants.
    """

    model: ChannelGated
    loss: TaskLoss
    inner_lr: float
    gate_lr: float
    stages: Sequence[str]
    backbone_gates: str
    gate_mode: str
    target: float | None
    two_sided: bool
    detach_stage1: bool
    first_order: bool

    def __post_init__(self) -> None:
        if isinstance(self.stages, str):
            raise ValueError(f"stages must be a sequence of names, got {self.stages!r}")
        for stage in self.stages:
            check_choice("stages", stage, KINDS)
        check_choice("backbone_gates", self.backbone_gates, ("open", "learned"))
        check_loss("loss", self.loss)
        for name in ("inner_lr", "gate_lr"):
            if not 0 <= (lr := getattr(self, name)) < inf:
                raise ValueError(f"{name} must be finite and >= 0, got {lr}")
        if not 0 <= (self.target or 0.0) <= 1:
            raise ValueError(f"target must be in 0..1, got {self.target}")
        if self.two_sided and self.target is None:
            raise ValueError("two_sided=True needs a target")

    def parts(self) -> dict[str, list[str]]:
        """The names of the parameters that each stage moves."""
        names = list(trainable_of(self.model))
        gates = [name for name in names if name.startswith("gates.")]
        return {"backbone": [name for name in names if name not in gates], "gates": gates}

    def adapt(self, params: Params, x: Tensor, y: Tensor, noise: Noise, sparsity: float) -> Params:
        """``(theta_i, phi_i)`` from ``(theta, phi)``: the stages in turn, on the support set.

        Parameters
        ----------
        params : dict of name to Tensor
            Where the first stage starts.
        x, y : Tensor [M, C, H, W], Tensor [M]
        noise : list of Tensor [M, C_l]
            Of the gates, the same in all stages.
        sparsity : float
            Weight of the price of open filters.
        """
        done: set[str] = set()
        for stage in self.stages:
            at = self._detached(params, done - {stage}) if self.detach_stage1 else params
            moved = {}
            if stage != "gates":
                moved |= self.backbone_step(at, x, y, noise)
            if stage != "backbone":
                moved |= self.gate_step(at, x, y, noise, sparsity)
            params, done = params | moved, done | ({*STAGES} if stage == "joint" else {stage})
        return params

    def backbone_step(self, params: Params, x: Tensor, y: Tensor, noise: Noise) -> Params:
        """``theta - inner_lr · grad_theta L(theta, phi)``, with open gates or those of ``phi``."""
        gate_mode = "open" if self.backbone_gates == "open" else self.gate_mode

        def loss(at: Params) -> Tensor:
            return self.value(at, x, y, noise, gate_mode)[0]

        return self._step("backbone", self.inner_lr, loss, params)

    def gate_step(
        self, params: Params, x: Tensor, y: Tensor, noise: Noise, sparsity: float
    ) -> Params:
        """``phi - gate_lr · grad_phi [L + sparsity · penalty]``, at the backbone of ``params``."""

        def loss(at: Params) -> Tensor:
            return self.value(at, x, y, noise, self.gate_mode, sparsity)[0]

        return self._step("gates", self.gate_lr, loss, params)

    def query_value(
        self, params: Params, task: Task, noises: tuple[Noise, Noise], sparsity: float
    ) -> tuple[Tensor, Tensor]:
        """F and the query logits, normalized as the model's ``norm`` says."""
        rest = {"gate_mode": self.gate_mode, "sparsity": sparsity}
        if norm_of(self.model) != "support":
            return self.value(params, task.query_x, task.query_y, noises[1], **rest)
        x = torch.cat([task.support_x, task.query_x])
        noise = [torch.cat(pair) for pair in zip(*noises, strict=True)]
        n_support = len(task.support_x)
        return self.value(params, x, task.query_y, noise, **rest, n_support=n_support)

    def value(
        self,
        params: Params,
        x: Tensor,
        y: Tensor,
        noise: Noise,
        gate_mode: str,
        sparsity: float = 0.0,
        n_support: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``L + sparsity · penalty`` and the logits, of the rows after the first ``n_support``."""
        network = with_tensors(self.model, params)
        logits, masks = network.run(x, n_support, gate_mode=gate_mode, noise=noise)
        logits, masks = logits[n_support:], [mask[n_support:] for mask in masks]
        value = scalar_loss(self.loss)(logits, y)
        if sparsity:
            value = value + sparsity * self.penalty(masks)
        return value, logits

    def penalty(self, masks: Sequence[Tensor]) -> Tensor:
        """The price of open filters: their share R, or how far it is from its target."""
        share = open_share(masks)
        if self.target is None:
            return share
        return (share - self.target).abs() if self.two_sided else F.relu(share - self.target)

    def _step(self, part: str, lr: float, loss: Loss, params: Params) -> Params:
        """The parameters of one part after a step of descent."""
        names, first_order = self.parts()[part], self.first_order
        moved = inner_loop(loss, params, steps=1, lr=lr, groups=[names], first_order=first_order)
        return {name: moved[name] for name in names}

    def _detached(self, params: Params, parts: set[str]) -> Params:
        """The same parameters, those of some parts as constants."""
        names = {name for part in parts for name in self.parts()[part]}
        return {name: p.detach() if name in names else p for name, p in params.items()}
