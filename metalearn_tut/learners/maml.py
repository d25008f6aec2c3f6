"""MAML and its relatives: one class on the one inner loop, and the options that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut import bilevel
from metalearn_tut.bilevel.inner import Rate
from metalearn_tut.learners.checks import check_engine
from metalearn_tut.learners.heads import head_of
from metalearn_tut.learners.inner_loop import InnerLoopLearner
from metalearn_tut.learners.learner import TaskLosses
from metalearn_tut.models.bound import for_tasks
from metalearn_tut.scoring import Metric, TaskLoss
from metalearn_tut.tasks.task import TaskBatch


class MAML(InnerLoopLearner):
    """Model-agnostic meta-learning (Finn et al. 2017): learn where gradient descent starts.

    ``min_theta (1/T) sum_i l(f_{theta_i'}; query_i)``, ``theta_i'`` the result of
    ``inner_steps`` gradient steps on the support loss of task i.

    Parameters
    ----------
    model : nn.Module
        Any network; its parameters are the meta-parameters, trained in place. Frozen ones
        (``requires_grad=False``) are neither trained nor stepped. Batch norms of PyTorch
        without statistics of their own normalize by the batch in both loops, and by the
        support set in what ``adapt`` gives; running statistics of a layer in training mode
        are reset, since the weights leave them behind.
    inner_lr : float, default 0.4
        Inner step size (the initial one if rates are learned).
    inner_steps : int, default 1
        Steps in training and, unless told otherwise, in adaptation.
    engine : str, default "functional"
        How meta-gradients are computed: see :func:`metalearn_tut.bilevel.meta_gradient`.
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
    inner_loss : callable, optional
        The same on the support set, if another.
    metric : callable, optional
        (outputs, targets) -> number, how a task is scored in training, validation and
        evaluation; by default the accuracy of logits ``[B, N]`` for class indices ``[B]``, and
        in training no score for anything else.
    masks : mapping of name to 0/1 Tensor, optional
        Weights that are zero and stay so in both loops: see
        :meth:`~metalearn_tut.learners.InnerLoopLearner.set_masks`.
    prox_weight : float, default 0
        Strength of the L2 pull to the start in the inner loop, as in iMAML.
    recompute : bool, default False
        Keep no activations of inner steps, and compute them again in the backward pass.
    solver, solver_steps : str and int, default "cg" and 20
        Of ``engine="implicit"``: see :func:`metalearn_tut.bilevel.implicit_gradients`.

    Raises
    ------
    TypeError, ValueError
        For what no engine could run, a loss that is no function, names that are no
        parameter's, or a network of which nothing is left to adapt.

    Examples
    --------
    >>> import torch
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

    in_threads = True
    _options = (
        *InnerLoopLearner._options,
        *("first_order", "deferred", "multi_step_loss", "recompute", "solver", "solver_steps"),
    )

    def __init__(
        self,
        model: nn.Module,
        inner_lr: Rate = 0.4,
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
        inner_loss: TaskLoss | None = None,
        metric: Metric | None = None,
        masks: Mapping[str, Tensor] | None = None,
        prox_weight: float = 0.0,
        recompute: bool = False,
        solver: str = "cg",
        solver_steps: int = 20,
    ) -> None:
        check_engine(engine, rate_mode, deferred, multi_step_loss, (solver, solver_steps))
        super().__init__(
            model,
            inner_lr,
            inner_steps,
            rate_mode=rate_mode,
            zero_head=zero_head,
            head=head,
            groups=groups,
            loss=loss,
            inner_loss=inner_loss,
            metric=metric,
            masks=masks,
            prox_weight=prox_weight,
        )
        self.engine, self.first_order, self.deferred = engine, first_order, deferred
        self.multi_step_loss, self.recompute = multi_step_loss, recompute
        self.solver, self.solver_steps = solver, solver_steps

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
        own = {"engine": self.engine, "first_order": self.first_order, "deferred": self.deferred}
        if self.engine == "implicit":
            own |= {"solver": self.solver, "solver_steps": self.solver_steps}
        result = bilevel.task_gradients(
            for_tasks(self.model),
            batch,
            metas,
            self.start,
            steps=self.inner_steps,
            step_weights=self.step_weights(progress),
            loss=self.loss,
            inner_loss=self._inner_loss,
            recompute=self.recompute,
            **own,
            **self.inner_settings(self.inner_steps),
        )
        return self._judged(result, metas, batch)

    def step_weights(self, progress: float) -> list[float] | None:
        """Weight of the query loss after each step: from all equal to the last one alone."""
        if progress >= self.multi_step_loss or self.inner_steps < 2:
            return None
        early = (1 - progress / self.multi_step_loss) / self.inner_steps
        return [early] * (self.inner_steps - 1) + [1 - early * (self.inner_steps - 1)]


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
