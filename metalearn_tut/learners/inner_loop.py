"""A learner that adapts by the inner loop: where it begins, what it steps, how it answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel import Params
from metalearn_tut.bilevel.checks import (
    check_inner,
    check_rows,
    check_targets,
    checked_support,
)
from metalearn_tut.bilevel.forward import check_stepped, completed, stepped_groups, task_dimensions
from metalearn_tut.bilevel.inner import Rate
from metalearn_tut.bilevel.rates import initial_rates, rates_of
from metalearn_tut.checks import whole_number
from metalearn_tut.files.content import architecture, described
from metalearn_tut.learners.checks import (
    check_losses,
    check_new_masks,
    check_rate_mode,
    check_rates,
)
from metalearn_tut.learners.gradients import attach_gradients
from metalearn_tut.learners.heads import check_zero_head, head_of, zeros_of
from metalearn_tut.learners.learner import Learner, TaskLosses
from metalearn_tut.learners.named import register, registered
from metalearn_tut.learners.predictor import Predictor
from metalearn_tut.models.bound import at_rest, for_tasks, forget_statistics
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.scoring import Metric, TaskLoss, check_aligned, scores
from metalearn_tut.tasks.task import TaskBatch


class InnerLoopLearner(Learner):
    """What MAML and Reptile share: one network, and gradient descent on a support set.

    Parameters
    ----------
    model, inner_lr, inner_steps, rate_mode, zero_head, head, groups
        As for :class:`MAML`.
    loss, inner_loss, metric, masks, prox_weight
        As there.
    """

    engine = "functional"
    _options: tuple[str, ...] = (
        *("inner_lr", "inner_steps", "engine", "rate_mode", "zero_head", "head", "groups"),
        *("loss", "metric", "prox_weight"),
    )

    def __init__(
        self,
        model: nn.Module,
        inner_lr: Rate = 0.4,
        inner_steps: int = 1,
        *,
        rate_mode: str = "fixed",
        zero_head: bool = False,
        head: str = "head",
        groups: Sequence[Sequence[str]] | None = None,
        loss: TaskLoss = F.cross_entropy,
        inner_loss: TaskLoss | None = None,
        metric: Metric | None = None,
        masks: Mapping[str, Tensor] | None = None,
        prox_weight: float = 0.0,
    ) -> None:
        super().__init__()
        params = bilevel.parameters_of(model)
        check_losses(loss, inner_loss, metric)
        check_inner(params, inner_steps, inner_lr, masks, groups, prox_weight)
        check_rate_mode(rate_mode, inner_lr, inner_steps)
        if zero_head:
            check_zero_head(model, head)
        self.model, self.loss, self._inner_loss, self.metric = model, loss, inner_loss, metric
        self.inner_lr, self.inner_steps, self.prox_weight = inner_lr, int(inner_steps), prox_weight
        self.rate_mode, self.zero_head, self.head, self.groups = rate_mode, zero_head, head, groups
        self.mask = registered(masks or {})
        stepped = self.stepped(self.inner_steps)
        rates = initial_rates(rate_mode, {n: params[n] for n in stepped}, inner_lr, inner_steps)
        self._rate_names = tuple(rates)
        for name, rate in rates.items():
            register(self, name, rate)

    @property
    def inner_loss(self) -> TaskLoss:
        """The loss on the support set."""
        return self.loss if self._inner_loss is None else self._inner_loss

    @property
    def learned_rates(self) -> Params:
        """The inner rates that are meta-learned, by name; none with ``rate_mode="fixed"``."""
        return {name: self.get_parameter(name) for name in self._rate_names}

    @property
    def masks(self) -> Params:
        """The masks of pruned parameters, by the parameter's name."""
        return dict(self.mask.named_buffers(remove_duplicate=False))

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
        masks, params = masks or {}, bilevel.parameters_of(self.model)
        check_new_masks({n: p for n, p in params.items() if n not in self._zeros()}, masks)
        self.mask = registered(masks)
        with torch.no_grad():
            for name, mask in masks.items():
                params[name].masked_fill_(mask.to(params[name].device) == 0, 0.0)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """The state of a pruned learner prunes this one, and takes the place of other masks."""
        first, params = f"{prefix}mask.", bilevel.parameters_of(self.model)
        masks = {n.removeprefix(first): m for n, m in state_dict.items() if n.startswith(first)}
        fitting = {n: m for n, m in masks.items() if n in params and m.shape == params[n].shape}
        if fitting:  # what does not fit, PyTorch reports
            self.mask = registered(fitting).to(next(iter(params.values())).device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def meta_parameters(self) -> Params:
        """The model's parameters (no frozen ones, no zero head) and the learned rates, as leaves.

        The rates follow the model to its dtype and device.
        """
        zeros, rates = self._zeros(), self.learned_rates
        params = {n: p for n, p in bilevel.trainable_of(self.model).items() if n not in zeros}
        like = next(self.model.parameters())
        for rate in rates.values():
            if (rate.dtype, rate.device) != (like.dtype, like.device):
                rate.data = rate.data.to(like)
        return {**params, **rates}

    def settings(self) -> dict[str, Any]:
        """All that decides the learner's results but its tensors, as JSON.

        Of two learners with the same settings and the same state one can go on for the other.
        """
        own = {name: getattr(self, name) for name in self._options}
        frozen = sorted(n for n, p in self.model.named_parameters() if not p.requires_grad)
        known = [self.model, *self.model.parameters()]  # which a loss may read
        rest = described({**own, "inner_loss": self._inner_loss, "frozen": frozen}, known=known)
        return {"method": type(self).__name__, "model": architecture(self.model), **rest}

    def stepped(self, steps: int = 1) -> list[str]:
        """Names of the parameters that the inner loop moves: those of the groups, none frozen.

        Raises
        ------
        ValueError
            If there is none, but ``steps`` are to be taken.
        """
        names = list(bilevel.trainable_of(self.model))
        if self.groups is not None:
            names = [n for n in names if any(n in group for group in self.groups)]
        if steps:
            check_stepped(self, names)
        return names

    def _zeros(self) -> list[str]:
        """Names of the parameters that start every task at zero."""
        return head_of(self.model, self.head) if self.zero_head else []

    def start(
        self, metas: Params, ways: int | None = None, steps: int | None = None
    ) -> tuple[Params, Rate]:
        """Where the inner loop begins and at which rates, as functions of the meta-parameters.

        Meta-parameters may carry a leading dimension of tasks; the result then does too.
        """
        own = bilevel.parameters_of(self.model)
        lead = task_dimensions(own, metas)
        zeros = {n: zeros_of(own[n], lead, ways) for n in self._zeros()}
        params = completed(own, {**metas, **zeros})
        if self.rate_mode == "fixed":
            return params, self.inner_lr
        steps = self.inner_steps if steps is None else steps
        stepped = {n: params[n] for n in self.stepped(steps)}
        check_rates(self.rate_mode, stepped, self._rate_names)
        sizes = {"lead": len(lead), "trained": self.inner_steps, "steps": steps}
        return params, rates_of(self.rate_mode, metas, stepped, **sizes)

    def inner_settings(self, steps: int) -> dict[str, Any]:
        """Arguments of the inner loop; a single step from a zero head steps the head alone.

        The gradient behind it is multiplied by the head's weights, and so is that gradient's
        own derivative: exact zeros, which would take a third of the time to compute.
        """
        stepped, groups = self.stepped(steps), stepped_groups(self.model, self.groups)
        behind_head = type(self.model).forward is FewShotNetwork.forward
        if self.zero_head and steps == 1 and behind_head and self.engine != "implicit":
            only_head = [n for n in self._zeros() if n in stepped]
            groups = [only_head] if self.groups is None else groups
        return {"groups": groups, "prox_weight": self.prox_weight, "masks": self.masks or None}

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

    def working(self, *, training: bool | None = None) -> InnerLoopLearner:
        """The same learner on a private copy of its network, in a mode of its own."""
        own = copy.copy(self)
        own.model = for_tasks(self.model, training=training)
        if training is False:
            own.loss, own._inner_loss = at_rest(self.loss), at_rest(self._inner_loss)
        return own

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
        own, ways = self.working(training=False), self.ways_for(support_y)
        params, inner = own._descent(ways, steps)
        x, y = checked_support(own.model, params, support_x, support_y, **inner)
        return Predictor(own.model, own.adapted(x, y, ways=ways, steps=steps), support_x)

    def adapted(
        self, x: Tensor, y: Tensor, *, ways: int | None = None, steps: int | None = None
    ) -> Params:
        """The task's parameters: the core of :meth:`adapt`, which looks at no value.

        Parameters
        ----------
        x : Tensor [N·K, ...]
            As the network reads them: floating inputs of its dtype, on its device.
        y : Tensor [N·K]
        ways, steps : int, optional
            Rows of a head that starts at zero, and inner steps; those of training by default.
        """
        params, inner = self._descent(ways, steps)
        return bilevel.adapted(self.model, params, x, y, **inner)

    def _descent(self, ways: int | None, steps: int | None) -> tuple[Params, dict[str, Any]]:
        """Where the inner loop begins, and its arguments."""
        steps = self.inner_steps if steps is None else steps
        params, lr = self.start(self.meta_parameters(), ways, steps)
        inner = {"loss": self.inner_loss, "steps": steps, "lr": lr}
        return params, inner | self.inner_settings(steps)

    def ways_for(self, support_y: Tensor) -> int | None:
        """The ways that these labels ask for, where the learner is free to have them."""
        if not self.zero_head or support_y.is_floating_point():
            return None
        check_targets(support_y, "support_y", loss=self.inner_loss)
        return int(support_y.max()) + 1
