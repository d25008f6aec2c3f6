"""MAML and its relatives: one class on the one inner loop, and the options that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel import Params
from metalearn_tut.bilevel.checks import check_inner, check_targets, prepare, ways_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.bilevel.inner import Rate, masked
from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.bilevel.rates import RATES, initial_rates, learned_rates
from metalearn_tut.learner import Predictor, TaskLosses, accuracy_of, attach_gradients
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.tasks.sampler import check_choice
from metalearn_tut.tasks.task import Task, TaskBatch

_HEAD = ("head.weight", "head.bias")
_SETTINGS = ("inner_loss", "masks", "pull", "recompute", "solver", "solver_steps")


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
    deferred : bool, default False
        Compute the meta-gradient of a task in the backward pass, and only if its loss has a
        weight there: with rank losses, a task left out costs its forward passes alone. The
        gradient is the same; the graphs of all T tasks are kept until then. Not for
        ``engine="vectorised"``.
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
        deferred: bool = False,
        loss: TaskLoss = F.cross_entropy,
        **settings: Any,
    ) -> None:
        _check_choices(engine, rates, inner_lr, inner_steps, step_losses, settings)
        if deferred and engine == "vectorised":
            raise ValueError("engine='vectorised' cannot be deferred; use engine='functional'")
        params = bilevel.parameters_of(model)
        if zero_head and "head.weight" not in params:
            raise ValueError(
                f"zero_head=True needs a model with a head, got {type(model).__name__}"
            )
        pull = settings.get("pull", 0.0)
        check_inner(params, inner_steps, inner_lr, settings.get("masks"), groups, pull)
        self.model, self.loss = model, loss
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.engine, self.zero_head, self.step_losses = engine, zero_head, step_losses
        self.deferred = deferred
        self.masks: Params = dict(settings.pop("masks", None) or {})
        self.options = {"first_order": first_order, "groups": groups, **settings}
        self.kind, self.rates = rates, initial_rates(rates, params, inner_lr, inner_steps)

    def meta_parameters(self) -> Params:
        """The model's parameters (without a zero head) and the learned rates, as leaves."""
        params = bilevel.parameters_of(self.model)
        if self.zero_head:
            params = {n: p for n, p in params.items() if n not in _HEAD}
        return {**params, **self.rates}

    def set_masks(self, masks: Mapping[str, Tensor] | None) -> None:
        """Prune the network: weights whose mask is 0 become zero, and stay so in both loops.

        Parameters
        ----------
        masks : mapping of name to 0/1 Tensor, or None
            For some parameters, each of its shape; they replace those there were. None takes
            the masks away; weights that are zero may then move.

        Raises
        ------
        ValueError
            If a name or shape is not that of a meta-parameter of the model: a zero head has no
            weights to prune.
        """
        if masks is None:
            self.masks = {}
            return
        metas = self.meta_parameters()
        params = {n: p for n, p in metas.items() if n not in self.rates}
        check_inner(params, 0, 0.0, masks)
        self.masks = dict(masks)
        with torch.no_grad():
            for name, mask in masks.items():
                params[name].masked_fill_(mask.to(params[name].device) == 0, 0.0)

    def start(self, metas: Params, ways: int | None = None, steps: int | None = None) -> tuple:
        """Where the inner loop begins and at which rates, as functions of the meta-parameters.

        Meta-parameters may carry a leading dimension of tasks; the result then does too.
        """
        own = bilevel.parameters_of(self.model)
        known = next(n for n in own if n in metas)
        lead = metas[known].shape[: metas[known].ndim - own[known].ndim]
        params = {n: metas[n] if n in metas else _zero(p, lead, ways) for n, p in own.items()}
        steps = self.inner_steps if steps is None else steps
        if self.kind == "fixed":
            return params, self.inner_lr
        sizes = {"lead": len(lead), "trained": self.inner_steps, "steps": steps}
        return params, learned_rates(self.kind, metas, params, **sizes)

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
            deferred=self.deferred,
            steps=self.inner_steps,
            step_weights=self.step_weights(progress),
            loss=self.loss,
            **self.options | self.inner_settings(self.inner_steps),
        )
        targets = batch.query_y.to(result.outputs.device)
        return TaskLosses(attach_gradients(result, metas), accuracy_of(result.outputs, targets))

    def step_weights(self, progress: float) -> list[float] | None:
        """Weight of the query loss after each step: from all equal to the last one alone."""
        if progress >= self.step_losses or self.inner_steps < 2:
            return None
        early = (1 - progress / self.step_losses) / self.inner_steps
        return [early] * (self.inner_steps - 1) + [1 - early * (self.inner_steps - 1)]

    def inner_settings(self, steps: int) -> dict[str, Any]:
        """Arguments of the inner loop; a single step from a zero head steps the head alone.

        The gradient behind it is multiplied by the head's weights, and so is that gradient's
        own derivative: exact zeros, which would take a third of the time to compute.
        """
        inner = {n: self.options[n] for n in ("groups", "pull") if n in self.options}
        inner |= {"masks": self.masks} if self.masks else {}
        behind_head = type(self.model).forward is FewShotNetwork.forward
        if self.zero_head and steps == 1 and behind_head and self.engine != "implicit":
            inner["groups"] = [_head_of(self.model)] if inner["groups"] is None else inner["groups"]
        return inner

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
        inner_loss = self.options.get("inner_loss") or self.loss
        ways = None
        if self.zero_head and not support_y.is_floating_point():
            check_targets(support_y, "support_y", loss=inner_loss)
            ways = int(support_y.max()) + 1
        params, lr = self.start(self.meta_parameters(), ways, steps)
        adapted = bilevel.adapt(
            self.model,
            support_x,
            support_y,
            inner_lr=lr,
            inner_steps=steps,
            params=params,
            loss=inner_loss,
            **self.inner_settings(steps),
        )
        # What was not stepped is the model's own tensor, which training would change later.
        return Predictor(self.model, {n: p.clone() for n, p in adapted.items()}, support_x)


def fomaml(model: nn.Module, inner_lr: float = 0.4, inner_steps: int = 1, **settings: Any) -> MAML:
    """First-order MAML: the gradient at the adapted parameters, used at the start."""
    return MAML(model, inner_lr, inner_steps, first_order=True, **settings)


def anil(model: nn.Module, inner_lr: float = 0.4, inner_steps: int = 1, **settings: Any) -> MAML:
    """ANIL (Raghu et al. 2020): the inner loop steps the head alone."""
    head = _head_of(model)
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
    adapting to the support set, as for MAML, and their gradients are the directions: train
    with the mean of the losses.

    Parameters
    ----------
    model, inner_lr, inner_steps
        As for :class:`MAML`.
    **settings
        ``zero_head``, ``groups``, ``loss``, ``inner_loss``, ``masks``, ``pull``, as there.
    """

    def __init__(
        self, model: nn.Module, inner_lr: float = 0.4, inner_steps: int = 1, **settings: Any
    ) -> None:
        allowed = {"zero_head", "groups", "loss", "inner_loss", "masks", "pull"}
        if unknown := sorted(set(settings) - allowed):
            raise TypeError(f"Reptile has no argument {unknown[0]!r}")
        super().__init__(model, inner_lr, inner_steps, **settings)

    @torch.no_grad()
    def _task(self, task: Task, theta: Params, lr: Rate) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Query loss and outputs, and how far each meta-parameter is from where the task ends."""
        forward, norm = bilevel.functional(self.model), norm_of(self.model)
        inner_loss = self.options.get("inner_loss") or self.loss
        inner = {"steps": self.inner_steps, "lr": lr, **self.inner_settings(self.inner_steps)}
        x = torch.cat([task.support_x, task.query_x])
        y = torch.cat([task.support_y, task.query_y])
        end = bilevel.inner_loop(lambda p: inner_loss(forward(p, x), y), theta, **inner)
        losses = {"loss": self.loss, "inner_loss": inner_loss}
        loss, outputs = bilevel.query_loss(forward, theta, task, norm=norm, **losses, **inner)
        begin = masked(theta, inner.get("masks"))
        return loss, outputs, [begin[n] - end[n] for n in self.meta_parameters()]

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query losses that carry ``theta - theta_i'`` as their gradients."""
        metas = self.meta_parameters()
        theta, lr = self.start(metas)
        losses = self.options.get("inner_loss") or self.loss, self.loss
        batch = prepare(batch, theta, ways_of(self.model, theta), losses)
        rows = (self._task(task, theta, lr) for task in batch)
        result = bilevel.TaskGradients.of_tasks(metas, rows)
        accuracy = accuracy_of(result.outputs, batch.query_y)
        return TaskLosses(attach_gradients(result, metas), accuracy)


def _check_choices(
    engine: str,
    rates: str,
    inner_lr: Rate,
    inner_steps: int,
    step_losses: float,
    settings: dict[str, Any],
) -> None:
    """Refuse what no engine could run, when the learner is made and not when it trains."""
    for name, value, allowed in (("engine", engine, bilevel.ENGINES), ("rates", rates, RATES)):
        check_choice(name, value, allowed)
    if unknown := sorted(set(settings) - set(_SETTINGS)):
        raise TypeError(f"MAML has no argument {unknown[0]!r}")
    if not 0 <= step_losses <= 1:
        raise ValueError(f"step_losses must be in 0..1, got {step_losses}")
    if rates != "fixed" and not isinstance(inner_lr, (int, float)):
        raise ValueError(f"rates={rates!r} start at one number, got inner_lr={inner_lr!r}")
    if rates != "fixed" and engine == "implicit":
        raise ValueError(f"engine='implicit' cannot learn rates, got rates={rates!r}")
    if rates == "step" and inner_steps < 1:
        raise ValueError(f"rates='step' needs inner_steps >= 1, got {inner_steps}")


def _head_of(model: nn.Module) -> list[str]:
    return [n for n in bilevel.parameters_of(model) if n in _HEAD]


def _zero(p: Tensor, lead: torch.Size, ways: int | None) -> Tensor:
    """A head tensor of zeros, with ``ways`` rows and the leading task dimension asked for."""
    rows = p.shape[0] if ways is None else ways
    return p.new_zeros((*lead, rows, *p.shape[1:]))
