"""MAML and its relatives: one class on the one inner loop, and the options that differ."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel import Params
from metalearn_tut.bilevel.checks import check_inner, check_rows, check_targets
from metalearn_tut.bilevel.forward import stepped_groups
from metalearn_tut.bilevel.inner import Rate
from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.bilevel.rates import RATE_MODES, initial_rates, rates_of
from metalearn_tut.checks import check_choice, whole_number
from metalearn_tut.files.content import architecture, described
from metalearn_tut.learners.heads import check_zero_head, head_of, zeros_of
from metalearn_tut.learners.learner import Predictor, TaskLosses, attach_gradients
from metalearn_tut.models.bound import at_rest, for_tasks, forget_statistics
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.scoring import (
    Metric,
    check_aligned,
    check_function,
    check_loss,
    scores,
)
from metalearn_tut.tasks.task import TaskBatch

_SETTINGS = ("inner_loss", "masks", "prox_weight", "recompute", "solver", "solver_steps")


class MAML:
    """Model-agnostic meta-learning (Finn et al. 2017): learn where gradient descent starts.

    ``min_theta (1/T) sum_i l(f_{theta_i'}; query_i)``, ``theta_i'`` the result of
    ``inner_steps`` gradient steps on the support loss of task i.

    Parameters
    ----------
    model : nn.Module
        Any network; its parameters are the meta-parameters, trained in place. Frozen ones
        (``requires_grad=False``) are neither trained nor stepped. Batch norms of PyTorch
        without statistics of their own normalize by the batch in both loops, and by the
        support set in what :meth:`adapt` gives; running statistics of a layer in training mode
        are reset, since the weights leave them behind.
    inner_lr : float, default 0.4
        Inner step size (the initial one if rates are learned).
    inner_steps : int, default 1
        Steps in training and, unless told otherwise, in adaptation.
    engine : str, default "functional"
        How meta-gradients are computed: see :func:`bilevel.meta_gradient`.
    first_order : bool, default False
        FOMAML: drop second derivatives.
    rate_mode : {"fixed", "shared", "per_layer", "per_layer_and_step", "per_weight"}
        Which inner rates are meta-learned: none; one for all; one per parameter tensor; one
        per parameter tensor and step (Antoniou et al. 2019); one per weight (Meta-SGD, Li
        et al. 2017).
    zero_head : bool, default False
        Start every task from a head at zero instead of a meta-learned one. The number of
        ways is then free at test time. (With one inner step only the head moves: the
        gradient behind a zero head is zero.)
    head : str, default "head"
        Name of the layer that is the head, for ``zero_head`` and :func:`anil`.
    groups : sequence of sequences of names, optional
        Parameters stepped in the inner loop, in order; the head alone gives ANIL.
    multi_step_loss : float, default 0
        Share of training over which the query losses after earlier steps fade out
        (multi-step loss, Antoniou et al. 2019); 0 uses the last step only.
    deferred : bool, default False
        Compute the meta-gradient of a task in the backward pass, and only if its loss has a
        weight there: with rank losses, a task left out costs its forward passes alone. The
        gradient is the same; the graphs of all T tasks are kept until then. Not for
        ``engine="vectorised"``.
    loss : callable, default cross entropy
        (outputs, targets) -> scalar, in both loops.
    metric : callable, optional
        (outputs, targets) -> number, how a task is scored in training, validation and
        evaluation; by default the accuracy of logits ``[B, N]`` for class indices ``[B]``, and
        in training no score for anything else.
    **settings
        ``inner_loss``, ``masks``, ``prox_weight``, ``recompute``, ``solver``, ``solver_steps``: see
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

    One logit for two classes, regression, several labels at once, a label for each pixel:

    >>> bce = F.binary_cross_entropy_with_logits
    >>> binary = MAML(nn.Linear(4, 1), loss=lambda o, y: bce(o.squeeze(-1), y.float()),
    ...               metric=lambda o, y: ((o.squeeze(-1) > 0) == y).float().mean())
    >>> regression = MAML(nn.Linear(4, 1), loss=F.mse_loss, metric=F.mse_loss)
    >>> labels = MAML(nn.Linear(4, 6), loss=bce, metric=lambda o, y: ((o > 0) == y).float().mean())
    >>> pixels = MAML(nn.Conv2d(1, 3, 3, padding=1),  # cross entropy is of [B, N, H, W], too
    ...               metric=lambda o, y: (o.argmax(1) == y).float().mean())
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.4,
        inner_steps: int = 1,
        *,
        engine: str = "functional",
        first_order: bool = False,
        rate_mode: str = "fixed",
        zero_head: bool = False,
        head: str = "head",
        groups: Sequence[Sequence[str]] | None = None,
        multi_step_loss: float = 0.0,
        deferred: bool = False,
        loss: TaskLoss = F.cross_entropy,
        metric: Metric | None = None,
        **settings: Any,
    ) -> None:
        _check_choices(engine, rate_mode, inner_lr, inner_steps, multi_step_loss, settings)
        if deferred and engine == "vectorised":
            raise ValueError("engine='vectorised' cannot be deferred; use engine='functional'")
        check_loss("loss", loss)
        check_loss("inner_loss", settings.get("inner_loss"), optional=True)
        check_function("metric", metric, optional=True)
        params = bilevel.parameters_of(model)
        check_inner(
            params,
            inner_steps,
            inner_lr,
            settings.get("masks"),
            groups,
            settings.get("prox_weight", 0.0),
        )
        self.model, self.loss, self.metric = model, loss, metric
        self.inner_lr, self.inner_steps = inner_lr, int(inner_steps)
        self.engine, self.zero_head, self.multi_step_loss = engine, zero_head, multi_step_loss
        self.deferred, self.head = deferred, head
        self.masks: Params = dict(settings.pop("masks", None) or {})
        self.options = {"first_order": first_order, "groups": groups, **settings}
        if zero_head:
            check_zero_head(model, head)
        self._check_stepped(self.inner_steps)
        stepped = {n: params[n] for n in self.stepped()}
        self.rate_mode = rate_mode
        self.learned_rates = initial_rates(rate_mode, stepped, inner_lr, inner_steps)

    def stepped(self) -> list[str]:
        """Names of the parameters that the inner loop moves: those of the groups, none frozen."""
        names = list(bilevel.trainable_of(self.model))
        if (groups := self.options["groups"]) is not None:
            names = [n for n in names if any(n in group for group in groups)]
        return names

    def _check_stepped(self, steps: int) -> None:
        if steps and not self.stepped():
            raise ValueError(
                f"{type(self).__name__} has nothing to adapt: all parameters that its inner loop "
                "could step are frozen (requires_grad=False)"
            )

    def _check_rates(self) -> None:
        if self.rate_mode == "one":
            return
        if missing := [n for n in self.stepped() if f"rates.{n}" not in self.learned_rates]:
            raise ValueError(
                f"rate_mode={self.rate_mode!r} has no rate for {', '.join(missing)}, which was "
                f"frozen when the learner was made: make a new {type(self).__name__}, or freeze "
                "it again"
            )

    def meta_parameters(self) -> Params:
        """The model's parameters (no frozen ones, no zero head) and the learned rates, as leaves.

        The rates follow the model to its dtype and device.
        """
        params = bilevel.trainable_of(self.model)
        if self.zero_head:
            params = {n: p for n, p in params.items() if n not in self._head()}
        like = next(self.model.parameters())
        for rate in self.learned_rates.values():
            if (rate.dtype, rate.device) != (like.dtype, like.device):
                rate.data = rate.data.to(like)
        return {**params, **self.learned_rates}

    def _head(self) -> list[str]:
        return head_of(self.model, self.head)

    def settings(self) -> dict[str, Any]:
        """All that decides the learner's results but its tensors, as JSON.

        Of two learners with the same settings and the same state one can go on for the other.
        """
        names = (
            "inner_lr",
            "inner_steps",
            "engine",
            "zero_head",
            "head",
            "multi_step_loss",
            "loss",
        )
        own = {name: getattr(self, name) for name in (*names, "deferred", "metric")}
        frozen = sorted(n for n, p in self.model.named_parameters() if not p.requires_grad)
        kept = {"rate_mode": self.rate_mode, "frozen": frozen, **self.options}
        known = [self.model, *self.model.parameters()]  # which a loss may read
        rest = described({**own, **kept}, known=known)
        return {"method": type(self).__name__, "model": architecture(self.model), **rest}

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
            If a name or shape is not that of a parameter of the model (a zero head has no weights
            to prune), or if a frozen one would lose weights.
        """
        if masks is None:
            self.masks = {}
            return
        zeros = self._head() if self.zero_head else []
        params = {n: p for n, p in bilevel.parameters_of(self.model).items() if n not in zeros}
        check_inner(params, 0, 0.0, masks)
        for name, mask in masks.items():
            p = params[name]
            if not p.requires_grad and p.detach()[mask.to(p.device) == 0].any():
                raise ValueError(f"masks[{name!r}] would prune {name}, which is frozen")
        self.masks = {n: mask.detach().clone() for n, mask in masks.items()}
        with torch.no_grad():
            for name, mask in self.masks.items():
                params[name].masked_fill_(mask.to(params[name].device) == 0, 0.0)

    def start(self, metas: Params, ways: int | None = None, steps: int | None = None) -> tuple:
        """Where the inner loop begins and at which rates, as functions of the meta-parameters.

        Meta-parameters may carry a leading dimension of tasks; the result then does too.
        """
        own = bilevel.parameters_of(self.model)
        known = next((n for n in own if n in metas), None)
        lead = metas[known].shape[: metas[known].ndim - own[known].ndim] if known else ()
        zeros = self._head() if self.zero_head else []

        def at_start(name: str, p: Tensor) -> Tensor:
            if name in metas:
                return metas[name]
            return zeros_of(p, lead, ways) if name in zeros else p.detach().expand(*lead, *p.shape)

        params = {n: at_start(n, p) for n, p in own.items()}
        steps = self.inner_steps if steps is None else steps
        if self.rate_mode == "fixed":
            return params, self.inner_lr
        self._check_rates()
        sizes = {"lead": len(lead), "trained": self.inner_steps, "steps": steps}
        stepped = {n: params[n] for n in self.stepped()}
        return params, rates_of(self.rate_mode, metas, stepped, **sizes)

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Query loss of each task after adaptation, with its meta-gradient attached.

        Parameters
        ----------
        batch : TaskBatch
            T tasks.
        progress : float, default 1
            Share of training done, for ``multi_step_loss``.
        """
        metas = self._trained()
        result = bilevel.task_gradients(
            for_tasks(self.model),
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
        return self._judged(result, metas, batch)

    def _trained(self) -> Params:
        """The meta-parameters, at least one; what their change makes stale is forgotten."""
        metas = self.meta_parameters()
        if not metas:
            raise ValueError(
                f"{type(self).__name__} has nothing to train: all parameters are frozen "
                "(requires_grad=False)"
            )
        forget_statistics(self.model)
        return metas

    def _judged(self, result: Any, metas: Params, batch: TaskBatch) -> TaskLosses:
        """Losses that carry their gradients, and scores; a loss that broadcasts is refused."""
        targets = batch.query_y.to(result.outputs.device)
        for loss in (self.loss, self.inner_loss):
            check_aligned(loss, result.outputs[0], targets[0])
        scored = scores(self.metric, result.outputs, targets)
        return TaskLosses(attach_gradients(result, metas), scored)

    def step_weights(self, progress: float) -> list[float] | None:
        """Weight of the query loss after each step: from all equal to the last one alone."""
        if progress >= self.multi_step_loss or self.inner_steps < 2:
            return None
        early = (1 - progress / self.multi_step_loss) / self.inner_steps
        return [early] * (self.inner_steps - 1) + [1 - early * (self.inner_steps - 1)]

    def working(self, *, training: bool | None = None) -> MAML:
        """The same learner on a private copy of its network, in a mode of its own."""
        own = copy.copy(self)
        own.model = for_tasks(self.model, training=training)
        if training is False:
            own.loss = at_rest(self.loss)
            own.options = {n: at_rest(option) for n, option in self.options.items()}
        return own

    @property
    def inner_loss(self) -> TaskLoss:
        """The loss on the support set."""
        return self.options.get("inner_loss") or self.loss

    def inner_settings(self, steps: int) -> dict[str, Any]:
        """Arguments of the inner loop; a single step from a zero head steps the head alone.

        The gradient behind it is multiplied by the head's weights, and so is that gradient's
        own derivative: exact zeros, which would take a third of the time to compute.
        """
        inner = {n: self.options[n] for n in ("groups", "prox_weight") if n in self.options}
        self._check_stepped(steps)
        stepped = self.stepped()
        inner["groups"] = stepped_groups(self.model, inner["groups"])
        behind_head = type(self.model).forward is FewShotNetwork.forward
        if self.zero_head and steps == 1 and behind_head and self.engine != "implicit":
            only_head = [n for n in self._head() if n in stepped]
            inner["groups"] = [only_head] if self.options["groups"] is None else inner["groups"]
        return {**inner, "masks": self.masks} if self.masks else inner

    @torch.no_grad()
    def adapt(self, support_x: Tensor, support_y: Tensor, *, steps: int | None = None) -> Predictor:
        """Learn one task from its support set; the learner and its network stay as they are.

        Parameters
        ----------
        support_x : Tensor [N·K, ...]
            ``uint8`` images, floating inputs, or integers for ``nn.Embedding``.
        support_y : Tensor [N·K]
            Labels 0..N-1; N may differ from training's with ``zero_head``.
        steps : int, optional
            Inner steps, ``inner_steps`` by default.

        Returns
        -------
        Predictor
            ``predict(x)`` gives outputs; ``predict.deploy()`` an ordinary network.
        """
        steps = self.inner_steps if steps is None else whole_number("steps", steps)
        check_rows(support_x, support_y, "support")
        params, lr = self.start(self.meta_parameters(), self.ways_for(support_y), steps)
        network = for_tasks(self.model, training=False)
        adapted = bilevel.adapt(
            network,
            support_x,
            support_y,
            inner_lr=lr,
            inner_steps=steps,
            params=params,
            loss=at_rest(self.inner_loss),
            **self.inner_settings(steps),
        )
        return Predictor(network, adapted, support_x)

    def ways_for(self, support_y: Tensor) -> int | None:
        """The ways that these labels ask for, where the learner is free to have them."""
        if not self.zero_head or support_y.is_floating_point():
            return None
        check_targets(support_y, "support_y", loss=self.inner_loss)
        return int(support_y.max()) + 1


def fomaml(model: nn.Module, inner_lr: float = 0.4, inner_steps: int = 1, **settings: Any) -> MAML:
    """First-order MAML: the gradient at the adapted parameters, used at the start."""
    return MAML(model, inner_lr, inner_steps, first_order=True, **settings)


def anil(
    model: nn.Module,
    inner_lr: float = 0.4,
    inner_steps: int = 1,
    *,
    head: str = "head",
    **settings: Any,
) -> MAML:
    """ANIL (Raghu et al. 2020): the inner loop steps the layer called ``head`` alone."""
    return MAML(model, inner_lr, inner_steps, groups=[head_of(model, head)], head=head, **settings)


def meta_sgd(
    model: nn.Module, inner_lr: float = 0.1, inner_steps: int = 1, **settings: Any
) -> MAML:
    """Meta-SGD (Li et al. 2017): one learned inner rate per weight."""
    return MAML(model, inner_lr, inner_steps, rate_mode="per_weight", **settings)


def _check_choices(
    engine: str,
    rate_mode: str,
    inner_lr: Rate,
    inner_steps: int,
    multi_step_loss: float,
    settings: dict[str, Any],
) -> None:
    """Refuse what no engine could run, when the learner is made and not when it trains."""
    for name, value, allowed in (
        ("engine", engine, bilevel.ENGINES),
        ("rate_mode", rate_mode, RATE_MODES),
    ):
        check_choice(name, value, allowed)
    if unknown := sorted(set(settings) - set(_SETTINGS)):
        raise TypeError(f"MAML has no argument {unknown[0]!r}")
    if not 0 <= multi_step_loss <= 1:
        raise ValueError(f"multi_step_loss must be in 0..1, got {multi_step_loss}")
    if rate_mode != "fixed" and not isinstance(inner_lr, Real):
        raise ValueError(f"rate_mode={rate_mode!r} start at one number, got inner_lr={inner_lr!r}")
    if rate_mode != "fixed" and engine == "implicit":
        raise ValueError(f"engine='implicit' cannot learn rates, got rate_mode={rate_mode!r}")
    if rate_mode == "per_layer_and_step" and inner_steps < 1:
        raise ValueError(
            f"rate_mode='per_layer_and_step' needs inner_steps >= 1, got {inner_steps}"
        )
