"""MetaGater: a backbone and its channel gates, both adapted to a task by a step each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_tut.bilevel import (
    Params,
    TaskGradients,
    assert_second_order_safe,
    parameters_of,
)
from metalearn_tut.bilevel.checks import check_rows, check_targets, prepare, prepared, ways_of
from metalearn_tut.bilevel.objective import TaskLoss
from metalearn_tut.checks import check_choice, check_seed
from metalearn_tut.files.content import architecture, described
from metalearn_tut.gating.networks import ChannelGated
from metalearn_tut.gating.stages import STAGES, Noise, Stages
from metalearn_tut.learners.gradients import attach_gradients
from metalearn_tut.learners.learner import Learner, TaskLosses
from metalearn_tut.learners.predictor import Predictor
from metalearn_tut.machine.threads import each
from metalearn_tut.models.bound import at_rest, for_tasks
from metalearn_tut.models.random_masks import logistic_noise
from metalearn_tut.scoring import Metric, check_aligned, check_function, scores
from metalearn_tut.tasks.task import Task, TaskBatch

UPDATES = ("full", "first_order")


class MetaGater(Learner):
    """Meta-learn where a channel-gated network starts, for one step of each of its two parts.

    On the support set of task i, with ``theta`` the backbone and ``phi`` the gates,

    ``theta_i = theta - inner_lr · grad_theta L(theta; open gates)``

    ``phi_i = phi - gate_lr · grad_phi [L(theta_i, phi) + sparsity · R(theta_i, phi)]``

    and on its query set ``F_i = L(theta_i, phi_i) + sparsity · R(theta_i, phi_i)``, R the mean
    share of open filters (:func:`~metalearn_tut.gating.open_share`), or, as by default, what of
    it is above a target. Frozen parameters are in neither part: they stay as they are.

    Parameters
    ----------
    model : ChannelGatedConv4 or ChannelGatedResNet12
        Its parameters are theta and phi, trained in place.
    inner_lr, gate_lr : float, default 0.4
        Step sizes of backbone and gates, >= 0; ``gate_lr`` is ``inner_lr`` by default.
    stages : sequence of {"backbone", "gates", "joint"}, default ("backbone", "gates")
        The steps, in order. Each takes its gradient at what those before it made; "joint" moves
        both parts at once, from the same point. Several of a kind are several steps; none at all
        is FedAvg with gates.
    backbone_gates : {"open", "learned"}
        Gates in a step of the backbone: all open, or by ``phi``.
    sparsity : float, default 2
        Weight of R, >= 0; 0 prices nothing.
    target : float or None, default 0.5
        Penalize only what R has more than this: ``max(R - target, 0)``; None penalizes R.
    two_sided : bool, default False
        With a target, penalize ``|R - target|``.
    warmup : float, default 0
        Share of training during which R has no weight, so that gates do not close before
        they carry information.
    update : {"full", "first_order"}
        The meta-gradient: exact, or without second derivatives.
    detach_stage1 : bool, default False
        Take for constants in a stage what the stages before it made of the other part. F is
        the same; its gradient lacks the path through the second stage.
    relaxed : bool, default False
        Gates that are never 0 or 1 (``gate_mode="soft"``) in all that is learned from. With them
        finite differences converge to ``update="full"``, which for hard ones they do not: a
        straight-through gradient is not the gradient of the mask that it passes through.
    loss : callable, default cross entropy
        (outputs, targets) -> scalar, in both loops.
    metric : callable, optional
        (outputs, targets) -> number, how a task is scored; accuracy by default.
    seed : int, default 0
        Of the gates' noise in :meth:`adapt`: one support set gives one network.

    Raises
    ------
    TypeError
        If the model has no channel gates.
    ValueError
        If an option is unknown or out of range.

    Notes
    -----
    The two stages of one step, the gates conditioned on the adapted backbone and the joint
    initialization are in the paper's abstract, which is all of it that we know. Open gates in
    the first stage, the form of R and its place in both losses are our reconstruction. Noise is
    drawn once for each task, for its support set (the same in all stages) and its query set.

    References
    ----------
    Lin, Yang, He, Fan and Zhang, *MetaGater: Fast Learning of Conditional Channel Gated
    Networks via Federated Meta-Learning*, arXiv:2011.12511, 2020.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> from metalearn_tut.gating import ChannelGatedConv4
    >>> from metalearn_tut.models import Conv4
    >>> x, y = torch.rand(60, 1, 16, 16), torch.arange(60) % 3
    >>> task = tasks.from_arrays(x, y).sampler(ways=3, shots=2, queries=2)[0]
    >>> network = ChannelGatedConv4(Conv4(1, ways=3, width=8, norm="support", image_size=16))
    >>> learner = MetaGater(network, inner_lr=0.1, sparsity=0.5)
    >>> predict = learner.adapt(task.support_x, task.support_y)
    >>> predict(task.query_x).shape, len(predict.deploy().masks(task.query_x))
    (torch.Size([6, 3]), 4)
    """

    in_threads = True

    def __init__(
        self,
        model: ChannelGated,
        inner_lr: float = 0.4,
        gate_lr: float | None = None,
        *,
        stages: Sequence[str] = STAGES,
        backbone_gates: str = "open",
        sparsity: float = 2.0,
        target: float | None = 0.5,
        two_sided: bool = False,
        warmup: float = 0.0,
        update: str = "full",
        detach_stage1: bool = False,
        relaxed: bool = False,
        loss: TaskLoss = F.cross_entropy,
        metric: Metric | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, ChannelGated):
            raise TypeError(f"model must have channel gates, got {type(model).__name__}")
        check_choice("update", update, UPDATES)
        check_seed(seed)
        check_function("metric", metric, optional=True)
        if not 0 <= sparsity < inf:
            raise ValueError(f"sparsity must be finite and >= 0, got {sparsity}")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must be in 0..1, got {warmup}")
        super().__init__()
        self.model, self.loss, self.sparsity, self.warmup = model, loss, sparsity, warmup
        self.update, self.seed, self.metric = update, seed, metric
        self._inner = Stages(
            model=model,
            loss=loss,
            inner_lr=inner_lr,
            gate_lr=inner_lr if gate_lr is None else gate_lr,
            stages=stages if isinstance(stages, str) else tuple(stages),
            backbone_gates=backbone_gates,
            gate_mode="soft" if relaxed else "learned",
            target=target,
            two_sided=two_sided,
            detach_stage1=detach_stage1,
            first_order=update == "first_order",
        )

    @property
    def inner(self) -> Stages:
        """The stages of the network that there is now."""
        return replace(self._inner, model=self.model)

    def settings(self) -> dict[str, Any]:
        """All that decides what it learns, as JSON."""
        own = ("sparsity", "warmup", "update", "seed", "metric")
        inner = ("inner_lr", "gate_lr", "stages", "backbone_gates", "gate_mode")
        inner += ("target", "two_sided", "detach_stage1")
        found = {name: getattr(self, name) for name in own}
        found |= {name: getattr(self.inner, name) for name in inner}
        frozen = sorted(n for n, p in self.model.named_parameters() if not p.requires_grad)
        found |= {"loss": self.loss, **({"frozen": frozen} if frozen else {})}
        known = [self.model, *self.model.parameters()]  # which a loss may read
        return {"model": architecture(self.model), **described(found, known=known)}

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """F of each task, with its meta-gradient attached, and the accuracy on the query set.

        Parameters
        ----------
        batch : TaskBatch
            T tasks.
        progress : float, default 1
            Share of training done, for ``warmup``.
        """
        metas = self.meta_parameters()
        if not metas:
            raise ValueError("MetaGater has nothing to train: all parameters are frozen")
        assert_second_order_safe(self.model, first_order=self.update != "full")
        batch = prepare(batch, metas, ways_of(self.model, metas), (self.loss, self.loss))
        sparsity = self.sparsity if progress >= self.warmup else 0.0
        drawn = [(task, self._noises(task)) for task in batch]
        rows = each(lambda pair: self._task(*pair, sparsity), drawn)
        result = TaskGradients.of_tasks(metas, rows)
        check_aligned(self.loss, result.outputs[0], batch.query_y[0])
        accuracy = scores(self.metric, result.outputs, batch.query_y)
        return TaskLosses(attach_gradients(result, metas), accuracy)

    def _noises(self, task: Task) -> tuple[Noise, Noise]:
        """The gates' noise for support and query set."""
        return self.model.noise(len(task.support_x)), self.model.noise(len(task.query_x))

    @torch.enable_grad()
    def _task(
        self, task: Task, noises: tuple[Noise, Noise], sparsity: float
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """F, the query logits, and the gradient in the order of the meta-parameters."""
        leaves = {n: p.detach().requires_grad_() for n, p in self.meta_parameters().items()}
        support = task.support_x, task.support_y, noises[0], sparsity
        adapted = self.inner.adapt(leaves, *support)
        value, logits = self.inner.query_value(adapted, task, noises, sparsity)
        found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return value.detach(), logits.detach(), list(found)

    @torch.no_grad()
    def adapt(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Learn one task: all stages on its support set.

        Parameters
        ----------
        support_x : Tensor [M, C, H, W]
            ``uint8`` images or floating ones.
        support_y : Tensor [M]
            Labels in 0..ways-1.

        Returns
        -------
        Predictor
            Its gates are deterministic. ``predict.deploy()`` is a gated network for
            :func:`~metalearn_tut.gating.skip` and :func:`metalearn_tut.gating.active_macs`.
        """
        params = self.meta_parameters()
        check_rows(support_x, support_y, "support")
        check_targets(support_y, "support_y", ways_of(self.model, params), self.loss)
        x, y = prepared(support_x, support_y, params, "support_x")
        own = self.working(training=False)
        return Predictor(own.model, own.adapted(x, y, **own.drawn(len(x))), support_x)

    def adapted(self, x: Tensor, y: Tensor, *, noise: Sequence[Tensor], **options: Any) -> Params:
        """The task's parameters: the core of :meth:`adapt`, which looks at no value.

        Parameters
        ----------
        x, y : Tensor
            As the network reads them.
        noise : sequence of Tensor [M or more, C_l]
            Of the gates. Of fewer rows the last is that of all further images.
        """
        # not [:M], of which a trace with a free number of rows would keep that M is not larger
        rows = torch.arange(x.shape[0], device=x.device).clamp(max=len(noise[0]) - 1)
        of_rows = [part[rows] for part in noise]
        moved = self.inner.adapt(self.meta_parameters(), x, y, of_rows, self.sparsity)
        return parameters_of(self.model) | moved  # frozen ones, too

    def drawn(self, rows: int) -> dict[str, Any]:
        """The gates' noise for a support set, an image's the same whichever come after it."""
        like, sizes = self.model.head.weight, self.model.sizes
        generator = torch.Generator(like.device).manual_seed(self.seed)
        return {
            "noise": logistic_noise(like.new_empty(rows, sum(sizes)), generator).split(sizes, 1)
        }

    def working(self, *, training: bool | None = None) -> MetaGater:
        """The same learner on a private copy of its network, in a mode of its own."""
        own = copy.copy(self)
        own.model = for_tasks(self.model, training=training)
        if training is False:
            own.loss = at_rest(self.loss)
            own._inner = replace(self._inner, loss=own.loss)
        return own
