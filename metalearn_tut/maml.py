"""MAML and its relatives: one class on the one inner loop, and the options that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel import Params
from metalearn_tut.bilevel.engines import TaskLoss, prepare
from metalearn_tut.bilevel.inner import Rate
from metalearn_tut.learner import Predictor, TaskLosses, accuracy_of, attach_gradients
from metalearn_tut.tasks.task import TaskBatch

RATES = ("fixed", "one", "layer", "step", "weight")
_HEAD = ("head.weight", "head.bias")


class MAML:
    """Model-agnostic meta-learning (Finn et al. 2017): learn where gradient descent starts.

    ``min_theta (1/T) sum_i l(f_{theta_i'}; query_i)``, ``theta_i'`` the result of
    ``inner_steps`` gradient steps on the support loss of task i.

    Parameters
    ----------
    model : nn.Module
        Any network; its parameters are the meta-parameters, trained in place.
    inner_lr : float, default 0.4
        Inner step size (the initial one if rates are learned).
    inner_steps : int, default 1
        Steps in training and, unless told otherwise, in adaptation.
    engine : str, default "functional"
        How meta-gradients are computed: see :func:`bilevel.meta_gradient`.
    first_order : bool, default False
        FOMAML: drop second derivatives.
    rates : {"fixed", "one", "layer", "step", "weight"}
        Which inner rates are meta-learned: none; one for all; one per parameter tensor; one
        per parameter tensor and step (Antoniou et al. 2019); one per weight (Meta-SGD, Li
        et al. 2017).
    zero_head : bool, default False
        Start every task from a head at zero instead of a meta-learned one. The number of
        ways is then free at test time. (With one inner step only the head moves: the
        gradient behind a zero head is zero.) Needs a model with a ``head``.
    groups : sequence of sequences of names, optional
        Parameters stepped in the inner loop, in order; the head alone gives ANIL.
    step_losses : float, default 0
        Share of training over which the query losses after earlier steps fade out
        (multi-step loss, Antoniou et al. 2019); 0 uses the last step only.
    loss : callable, default cross entropy
        (outputs, targets) -> scalar, in both loops.
    **settings
        ``inner_loss``, ``masks``, ``pull``, ``recompute``, ``solver``, ``solver_steps``: see
        :func:`bilevel.meta_gradient`.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> sampler = tasks.from_arrays(x, y).sampler(ways=3, shots=2, queries=2)
    >>> learner = MAML(nn.Linear(4, 3), inner_lr=0.1)
    >>> learner.task_losses(sampler.batch(0, 8)).losses.shape
    torch.Size([8])
    >>> predict = learner.adapt(sampler[0].support_x, sampler[0].support_y)
    >>> predict(sampler[0].query_x).shape
    torch.Size([6, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.4,
        inner_steps: int = 1,
        *,
        engine: str = "functional",
        first_order: bool = False,
        rates: str = "fixed",
        zero_head: bool = False,
        groups: Sequence[Sequence[str]] | None = None,
        step_losses: float = 0.0,
        loss: TaskLoss = F.cross_entropy,
        **settings: Any,
    ) -> None:
        if engine not in bilevel.ENGINES:
            allowed = ", ".join(map(repr, bilevel.ENGINES))
            raise ValueError(f"engine must be one of {allowed}, got {engine!r}")
        if rates not in RATES:
            raise ValueError(f"rates must be one of {', '.join(map(repr, RATES))}, got {rates!r}")
        if not 0 <= step_losses <= 1:
            raise ValueError(f"step_losses must be in 0..1, got {step_losses}")
        if zero_head and not hasattr(model, "head"):
            raise ValueError(
                f"zero_head=True needs a model with a head, got {type(model).__name__}"
            )
        self.model, self.loss = model, loss
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.engine, self.zero_head, self.step_losses = engine, zero_head, step_losses
        self.settings = {"first_order": first_order, "groups": groups, **settings}
        params = bilevel.parameters_of(model)
        bilevel.inner.check_inner(
            params, inner_steps, inner_lr, settings.get("masks"), groups, settings.get("pull", 0.0)
        )
        self.kind, self.rates = rates, _initial_rates(rates, params, inner_lr, inner_steps)

    def meta_parameters(self) -> Params:
        """The model's parameters (without a zero head) and the learned rates, as leaves."""
        params = bilevel.parameters_of(self.model)
        if self.zero_head:
            params = {n: p for n, p in params.items() if n not in _HEAD}
        return {**params, **self.rates}

    def start(self, metas: Params, ways: int | None = None, steps: int | None = None) -> tuple:
        """Where the inner loop begins and at which rates, as functions of the meta-parameters.

        Meta-parameters may carry a leading dimension of tasks; the result then does too.
        """
        own = bilevel.parameters_of(self.model)
        known = next(n for n in own if n in metas)
        lead = metas[known].shape[: metas[known].ndim - own[known].ndim]
        params = {n: metas[n] if n in metas else _zero(p, lead, ways) for n, p in own.items()}
        return params, self._rates(metas, params, len(lead), steps or self.inner_steps)

    def _rates(self, metas: Params, params: Params, lead: int, steps: int) -> Rate:
        """Learned rates in the form that the inner loop takes; scalars broadcast to weights."""
        if self.kind == "fixed":
            return self.inner_lr
        if self.kind == "weight":
            return {n: metas[f"rates.{n}"] for n in params}

        def wide(rate: Tensor, p: Tensor) -> Tensor:
            return rate.reshape(rate.shape + (1,) * (p.ndim - lead))

        if self.kind == "one":
            return {n: wide(metas["rates"], p) for n, p in params.items()}
        if self.kind == "layer":
            return {n: wide(metas[f"rates.{n}"], p) for n, p in params.items()}
        last = self.inner_steps - 1  # later steps than were trained use the last rate
        return [
            {n: wide(metas[f"rates.{n}"][..., min(k, last)], p) for n, p in params.items()}
            for k in range(steps)
        ]

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query loss of each task after adaptation, with its meta-gradient attached.

        Parameters
        ----------
        batch : TaskBatch
            T tasks.
        progress : float, default 1
            Share of training done, for ``step_losses``.
        """
        metas = self.meta_parameters()
        result = bilevel.task_gradients(
            self.model,
            batch,
            metas,
            self.start,
            engine=self.engine,
            steps=self.inner_steps,
            step_weights=self.step_weights(progress),
            loss=self.loss,
            **self.settings,
        )
        targets = batch.query_y.to(result.outputs.device)
        return TaskLosses(attach_gradients(result, metas), accuracy_of(result.outputs, targets))

    def step_weights(self, progress: float) -> list[float] | None:
        """Weight of the query loss after each step: from all equal to the last one alone."""
        if progress >= self.step_losses or self.inner_steps < 2:
            return None
        early = (1 - progress / self.step_losses) / self.inner_steps
        return [early] * (self.inner_steps - 1) + [1 - early * (self.inner_steps - 1)]

    @torch.no_grad()
    def adapt(self, support_x: Tensor, support_y: Tensor, *, steps: int | None = None) -> Predictor:
        """Learn one task from its support set.

        Parameters
        ----------
        support_x : Tensor [N·K, ...]
            ``uint8`` images or floating inputs.
        support_y : Tensor [N·K]
            Labels 0..N-1; N may differ from training's with ``zero_head``.
        steps : int, optional
            Inner steps, ``inner_steps`` by default.

        Returns
        -------
        Predictor
            ``predict(x)`` gives outputs; ``predict.deploy()`` an ordinary network.
        """
        steps = self.inner_steps if steps is None else steps
        ways = None
        if self.zero_head and not support_y.is_floating_point():
            ways = int(support_y.max()) + 1
        else:
            bilevel.engines.check_labels(support_y, self.model, "support_y")
        params, lr = self.start(self.meta_parameters(), ways, steps)
        inner = {
            n: self.settings[n]
            for n in ("groups", "masks", "pull")
            if self.settings.get(n) is not None
        }
        adapted = bilevel.adapt(
            self.model,
            support_x,
            support_y,
            inner_lr=lr,
            inner_steps=steps,
            params=params,
            loss=self.settings.get("inner_loss") or self.loss,
            **inner,
        )
        return Predictor(self.model, adapted, support_x)


def fomaml(model: nn.Module, inner_lr: float = 0.4, inner_steps: int = 1, **settings: Any) -> MAML:
    """First-order MAML: the gradient at the adapted parameters, used at the start."""
    return MAML(model, inner_lr, inner_steps, first_order=True, **settings)


def anil(model: nn.Module, inner_lr: float = 0.4, inner_steps: int = 1, **settings: Any) -> MAML:
    """ANIL (Raghu et al. 2020): the inner loop steps the head alone."""
    head = [n for n in bilevel.parameters_of(model) if n in _HEAD]
    if not head:
        raise ValueError(f"anil needs a model with a head, got {type(model).__name__}")
    return MAML(model, inner_lr, inner_steps, groups=[head], **settings)


def meta_sgd(
    model: nn.Module, inner_lr: float = 0.1, inner_steps: int = 1, **settings: Any
) -> MAML:
    """Meta-SGD (Li et al. 2017): one learned inner rate per weight."""
    return MAML(model, inner_lr, inner_steps, rates="weight", **settings)


class Reptile(MAML):
    """Reptile (Nichol et al. 2018): move the start towards where each task ends.

    The update direction of task i is ``theta - theta_i'``, with ``theta_i'`` the result of
    plain descent on all of the task's labelled examples, support and query; no derivative
    passes through the inner loop. The reported losses are those of the query set after
    adapting to the support set, as for MAML.
    """

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query losses that carry ``theta - theta_i'`` as their gradients."""
        metas = self.meta_parameters()
        params, lr = self.start(metas)
        batch = prepare(batch, next(iter(params.values())), self.model)
        forward = bilevel.functional(self.model)
        inner = {"steps": self.inner_steps, "lr": lr, "groups": self.settings["groups"]}
        norm = bilevel.forward.norm_of(self.model)
        losses, outputs, moves = [], [], []
        with torch.no_grad():
            for task in batch:
                x = torch.cat([task.support_x, task.query_x])
                y = torch.cat([task.support_y, task.query_y])
                end = bilevel.inner_loop(lambda p: self.loss(forward(p, x), y), params, **inner)  # noqa: B023
                moves.append([metas[n] - end[n] for n in metas])
                loss, output = bilevel.query_loss(
                    forward, params, task, loss=self.loss, norm=norm, **inner
                )
                losses.append(loss)
                outputs.append(output)
        gradients = {
            n: torch.stack(m) for n, m in zip(metas, zip(*moves, strict=True), strict=True)
        }
        result = bilevel.TaskGradients(torch.stack(losses), torch.stack(outputs), gradients)
        return TaskLosses(
            attach_gradients(result, metas), accuracy_of(result.outputs, batch.query_y)
        )


def _initial_rates(kind: str, params: Params, lr: float, steps: int) -> Params:
    """Learned rates at their start, all equal to ``lr``."""
    if kind == "fixed":
        return {}
    if kind == "one":
        shapes: dict[str, tuple[int, ...]] = {"rates": ()}
    else:
        per = {"layer": lambda p: (), "step": lambda p: (steps,), "weight": lambda p: p.shape}[kind]
        shapes = {f"rates.{n}": tuple(per(p)) for n, p in params.items()}
    like = next(iter(params.values()))
    return {
        n: torch.full(shape, lr, dtype=like.dtype, device=like.device, requires_grad=True)
        for n, shape in shapes.items()
    }


def _zero(p: Tensor, lead: torch.Size, ways: int | None) -> Tensor:
    """A head tensor of zeros, with ``ways`` rows and the leading task dimension asked for."""
    rows = p.shape[0] if ways is None else ways
    return p.new_zeros((*lead, rows, *p.shape[1:]))
