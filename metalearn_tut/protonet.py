"""Prototypical networks: the baseline that needs no inner loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel import Params, parameters_of
from metalearn_tut.bilevel.checks import check_finite, check_rows, check_targets, prepare
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.learner import TaskLosses, accuracy_of
from metalearn_tut.models import deploy
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.tasks.task import TaskBatch, as_float


def prototypes(features: Tensor, labels: Tensor) -> Tensor:
    """Mean feature of each class: ``[N·K, D]`` and labels 0..N-1 to ``[N, D]``.

    Raises
    ------
    ValueError
        If a class below the highest label has no example: it would have no mean.
    """
    counts = class_counts(labels)  # [N]
    return F.one_hot(labels).to(features).T @ features / counts.unsqueeze(1)


def class_counts(labels: Tensor) -> Tensor:
    """Examples ``[N]`` of each class 0..N-1, N the highest label plus one; none may be 0."""
    counts = torch.bincount(labels)
    if not counts.all():
        raise ValueError(
            f"support_y must hold every label in 0..{len(counts) - 1}, "
            f"got no {counts.tolist().index(0)}"
        )
    return counts


def distance_logits(features: Tensor, centers: Tensor) -> Tensor:
    """Negative squared Euclidean distances ``[B, N]`` (Snell et al. 2017, equation 2).

    Examples
    --------
    >>> distance_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    tensor([[-25., -16.]])
    """
    return -(features.unsqueeze(1) - centers).square().sum(-1)


class ProtoNet:
    """Prototypical networks (Snell et al. 2017): classify by the nearest class mean.

    ``p(y = c | x) ~ exp(-|f(x) - c_c|^2)``, ``c_c`` the mean embedding of class c's support.

    Parameters
    ----------
    model : FewShotNetwork
        Its ``embed`` is trained; its head is not used. The number of ways is free.
    """

    def __init__(self, model: FewShotNetwork) -> None:
        if not hasattr(model, "embed"):
            raise ValueError(f"ProtoNet needs a model with embed(x), got {type(model).__name__}")
        self.model = model

    def meta_parameters(self) -> Params:
        """The embedding's parameters."""
        return {n: p for n, p in parameters_of(self.model).items() if not n.startswith("head.")}

    def logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Logits ``[N·Q, N]`` of floating-point query inputs, normalized as ``model.norm`` says."""
        if norm_of(self.model) == "support":
            n = len(support_x)
            both = self.model.embed(torch.cat([support_x, query_x]), n)
            support, query = both[:n], both[n:]
        else:
            support, query = self.model.embed(support_x), self.model.embed(query_x)
        return distance_logits(query, prototypes(support, support_y))

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Cross entropy of each task's query set."""
        check_targets(batch.support_y.flatten(), "support_y")
        ways = int(batch.support_y.max()) + 1
        batch = prepare(batch, parameters_of(self.model), ways)
        logits = [self.logits(t.support_x, t.support_y, t.query_x) for t in batch]
        losses = [F.cross_entropy(x, y) for x, y in zip(logits, batch.query_y, strict=True)]
        return TaskLosses(
            torch.stack(losses), accuracy_of(torch.stack(logits).detach(), batch.query_y)
        )

    def adapt(self, support_x: Tensor, support_y: Tensor) -> NearestPrototype:
        """Remember the support set; there is nothing to train.

        Parameters
        ----------
        support_x : Tensor [N·K, ...]
            ``uint8`` images or floating inputs.
        support_y : Tensor [N·K]
            Labels 0..N-1, each at least once; N is free.
        """
        check_rows(support_x, support_y, "support")
        check_targets(support_y, "support_y")
        class_counts(support_y)
        check_finite(support_x, "support_x")
        return NearestPrototype(self, support_x, support_y)


@dataclass(frozen=True)
class NearestPrototype:
    """A prototypical network with the support set of one task."""

    learner: ProtoNet
    support_x: Tensor
    support_y: Tensor

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``[B, N]`` for inputs ``x [B, ...]`` (``uint8`` images or floats)."""
        like = next(self.learner.model.parameters())
        support, query = (as_float(t.to(like.device), like.dtype) for t in (self.support_x, x))
        return self.learner.logits(support, self.support_y.to(like.device), query)

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        """An ordinary network in evaluation mode, its head set to the prototypes.

        ``-|f - c|^2 = 2 c·f - |c|^2 - |f|^2``, and the last term is the same for all classes: a
        linear layer with weights ``2 c`` and biases ``-|c|^2`` gives the same probabilities.
        """
        model = self.learner.model
        like = next(model.parameters())
        support = as_float(self.support_x.to(like.device), like.dtype)
        centers = prototypes(model.embed(support), self.support_y.to(like.device))
        head = {"head.weight": 2 * centers, "head.bias": -centers.square().sum(1)}
        return deploy(model, head, support)
