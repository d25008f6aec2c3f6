"""Prototypical networks: the baseline that needs no inner loop."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_tut.bilevel import Params, parameters_of
from metalearn_tut.bilevel.checks import check_finite, check_rows, check_targets, prepare
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.files.content import architecture, described
from metalearn_tut.learners.learner import Learner, TaskLosses
from metalearn_tut.learners.predictor import Predictor
from metalearn_tut.models import deploy
from metalearn_tut.models.bound import with_tensors, without_statistics
from metalearn_tut.models.deploy import with_statistics
from metalearn_tut.models.few_shot import FewShotNetwork
from metalearn_tut.scoring import Metric, check_function, score
from metalearn_tut.tasks.task import TaskBatch


def prototypes(features: Tensor, labels: Tensor) -> Tensor:
    """Mean feature of each class: ``[N·K, D]`` and labels 0..N-1 to ``[N, D]``.

    Raises
    ------
    ValueError
        If a class below the highest label has no example: it would have no mean.
    """
    return class_means(features, labels, len(class_counts(labels)))


def class_means(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """The same of labels that are known to be 0..ways-1, each at least once."""
    members = (labels == torch.arange(ways, device=labels.device).unsqueeze(1)).to(features)
    return members @ features / members.sum(1, keepdim=True)  # [N, D]


def class_counts(labels: Tensor) -> Tensor:
    """Examples ``[N]`` of each class 0..N-1, N the highest label plus one; none may be 0."""
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(
            "support_y must be int64 labels [B], one for each row, "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
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


class ProtoNet(Learner):
    """Prototypical networks (Snell et al. 2017): classify by the nearest class mean.

    ``p(y = c | x) ~ exp(-|f(x) - c_c|^2)``, ``c_c`` the mean embedding of class c's support.

    Parameters
    ----------
    model : nn.Module
        With ``embed(x)``, features ``[B, D]``, which is trained; frozen parameters
        (``requires_grad=False``) are not. The head of a network of this package is not used. The
        number of ways is free. Running statistics are learned and used as PyTorch does: in
        training, and in evaluation.
    metric : callable, optional
        (logits, labels) -> number, how a task is scored; accuracy by default.
    """

    in_threads = True

    def __init__(self, model: nn.Module, *, metric: Metric | None = None) -> None:
        if not hasattr(model, "embed"):
            raise ValueError(f"ProtoNet needs a model with embed(x), got {type(model).__name__}")
        check_function("metric", metric, optional=True)
        super().__init__()
        self.model, self.metric = model, metric

    def meta_parameters(self) -> Params:
        """The embedding's parameters that are not frozen."""
        params = super().meta_parameters()
        if isinstance(self.model, FewShotNetwork):
            params = {n: p for n, p in params.items() if not n.startswith("head.")}
        return params

    def settings(self) -> dict[str, Any]:
        """All that decides the learner's results but its tensors, as JSON."""
        frozen = sorted(n for n, p in self.model.named_parameters() if not p.requires_grad)
        own = {"metric": described(self.metric), "frozen": frozen}
        return {"method": type(self).__name__, "model": architecture(self.model), **own}

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """Cross entropy of each task's query set; tasks may differ in their number of classes."""
        if not self.meta_parameters():
            raise ValueError("ProtoNet has nothing to train: all parameters are frozen")
        check_targets(batch.support_y.flatten(), "support_y")
        batch = prepare(batch, parameters_of(self.model), None)
        losses, scored = [], []
        for task in batch:
            check_targets(task.query_y, "query_y", int(task.support_y.max()) + 1)
            found = logits(self.model, task.support_x, task.support_y, task.query_x)
            losses.append(F.cross_entropy(found, task.query_y))
            scored.append(score(self.metric, found.detach(), task.query_y))
        return TaskLosses(torch.stack(losses), torch.stack(scored))

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
        return NearestPrototype(self.model, support_x, support_y)

    def working(self, *, training: bool | None = None) -> ProtoNet:
        """The same learner on a private copy of its network, in a mode of its own."""
        own, lost = copy.copy(self), without_statistics(self.model, learned=True)
        own.model = with_tensors(self.model, {}, training=training, by_batch=lost)
        return own

    def task_network(self, x: Tensor, y: Tensor, *, ways: int, **options: Any) -> nn.Module:
        """The network that answers for one task: the core of :meth:`adapt`, which only computes."""
        network = with_tensors(self.model, {})
        if norm_of(network) != "batch":
            network = with_statistics(network, lambda rows: rows.embed(x.clone()))
        return ByDistance(network, class_means(network.embed(x.clone()), y, ways))


def logits(model: nn.Module, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """Logits ``[N·Q, N]`` of floating-point query inputs, normalized as ``model.norm`` says."""
    if norm_of(model) == "support":
        n = len(support_x)
        both = model.embed(torch.cat([support_x, query_x]), n)
        support, query = both[:n], both[n:]
    else:
        support, query = model.embed(support_x.clone()), model.embed(query_x.clone())
    return distance_logits(query, prototypes(support, support_y))


class NearestPrototype(Predictor):
    """A prototypical network with the support set of one task.

    Parameters
    ----------
    model : nn.Module
        The embedding. It is copied, as the other two: training may go on.
    support_x : Tensor [N·K, ...]
    support_y : Tensor [N·K]
    """

    def __init__(self, model: nn.Module, support_x: Tensor, support_y: Tensor) -> None:
        self.support_y = support_y.to(next(model.parameters()).device, copy=True)
        params = dict(model.named_parameters())
        super().__init__(model, params, support_x, learned_statistics=True)

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        return network.embed(x.clone())

    def _outputs(self, support_x: Tensor, x: Tensor) -> Tensor:
        return logits(with_tensors(self.network, {}), support_x, self.support_y, x)

    def _deployed(self, support_x: Tensor) -> nn.Module:
        """A linear layer in place of the prototypes; in a network of this package, the head.

        ``-|f - c|^2 = 2 c·f - |c|^2 - |f|^2``, and the last term is the same for all classes: a
        linear layer with weights ``2 c`` and biases ``-|c|^2`` gives the same probabilities.
        """
        features = self._run(with_tensors(self.network, {}), support_x)
        centers = prototypes(features, self.support_y)
        weight, bias = 2 * centers, -centers.square().sum(1)
        expected = features @ weight.T + bias
        if isinstance(self.network, FewShotNetwork):
            head = {"head.weight": weight, "head.bias": bias}
            return deploy(self.network, head, support_x, expected=expected)
        return deploy(Embedded(self.network, weight, bias), {}, support_x, expected=expected)


class ByDistance(nn.Module):
    """A network's ``embed``, and the distances to prototypes ``[N, D]``."""

    def __init__(self, network: nn.Module, centers: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("prototypes", centers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, N]``."""
        return distance_logits(self.network.embed(x), self.prototypes)


class Embedded(nn.Module):
    """A network's ``embed`` and a linear layer on it."""

    def __init__(self, network: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.network, self.head = network, nn.Linear(*reversed(weight.shape)).to(weight)
        self.head.weight, self.head.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, N]``."""
        return self.head(self.network.embed(x))
