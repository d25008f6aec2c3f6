"""The Hessian of each layer's output error, at the weights that tasks adapt to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.capture import (
    check_capture,
    check_untied,
    free_leaves,
    patches,
    prunable_layers,
    watch,
)
from metalearn_tut.tasks.task import Task, TaskBatch


@dataclass(frozen=True, eq=False)
class LayerHessian:
    """``H = ridge I + (1/n) sum x x^T`` of one layer, and its inverse.

    Parameters
    ----------
    name : str
        The layer.
    gram : Tensor [d, d] float64
        ``(1/n) sum x x^T`` over the layer's input rows; one more row and column for a bias
        that is not frozen.
    rows : int
        Number n of input rows.
    ridge : float
        What is added to the diagonal.
    """

    name: str
    gram: Tensor
    rows: int
    ridge: float

    @property
    def matrix(self) -> Tensor:
        """``H`` itself, the ridge included."""
        return self.gram + self.ridge * torch.eye(len(self.gram)).to(self.gram)

    @cached_property
    def inverse(self) -> Tensor:
        """``H^-1`` by one Cholesky factorization, when first asked for.

        Raises
        ------
        ValueError
            If ``H`` is not finite, or not positive definite in float64.
        """
        if not torch.isfinite(self.gram).all():
            raise ValueError(f"the Hessian of layer {self.name!r} is not finite")
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        if failed:
            raise ValueError(
                f"the Hessian of layer {self.name!r} cannot be inverted: {self.rows} input rows "
                f"for {len(self.gram)} inputs with ridge={self.ridge:g}; give more tasks or a "
                "larger ridge"
            )
        return torch.cholesky_inverse(factor)

    @cached_property
    def condition(self) -> float:
        """Condition number ``|H| |H^-1|`` in the 1-norm."""
        norm = self.matrix.abs().sum(0).max()
        norm_of_inverse = self.inverse.abs().sum(0).max()
        return (norm * norm_of_inverse).item()


def layer_hessians(
    learner: MAML,
    tasks: TaskBatch | Sequence[Task],
    *,
    layers: Sequence[str] | None = None,
    inner_steps: int | None = None,
    data: str = "support",
    patch_stride: int = 1,
    ridge: float = 1e-6,
) -> dict[str, LayerHessian]:
    """Layer Hessians at adapted weights, the heart of ANP (Gao et al. 2021).

    For every layer ``H = ridge I + (1/n) sum x x^T`` over all rows x that the layer is given
    when, task after task, the network runs with the weights ``theta_i'`` that the task's
    support set leads to. ``H`` is the Hessian of the layer's squared output error
    ``(1/n) sum |(W + delta)^T x - W^T x|^2`` (up to a factor 2), the same for all output units.

    Parameters
    ----------
    learner : MAML
        Or a relative; it is left as it is. Its masks hold while it adapts.
    tasks : TaskBatch or sequence of Task
        One or more; order does not matter.
    layers : sequence of names, optional
        See :func:`prunable_layers`.
    inner_steps : int, optional
        The learner's own by default. 0 takes the inputs at the meta-learned weights: plain
        layer-wise OBS (L-OBS, Dong et al. 2017).
    data : {"support", "query"}, default "support"
        Which of a task's images run through the adapted network, normalized as the model's
        ``norm`` says.
    patch_stride : int, default 1
        Every how-many-th output position of a convolution to use: see :func:`patches`. The
        authors' code has 5.
    ridge : float, default 1e-6
        The authors' value.

    Returns
    -------
    dict of layer name to LayerHessian
        In the order of the model's modules.

    Raises
    ------
    ValueError
        Without tasks; for a layer that cannot be pruned, is not reached, or shares its weight
        with another one; if a layer's inputs are not finite.

    Notes
    -----
    The ridge, the 20 support sets and the stride are read from the authors' code, which updates
    the inverse once per row; that gives the same inverse. Two things differ here. The code draws
    fresh tasks for each layer, we use the same for all: one pass instead of one per layer. And
    the code orders patches as ``(kh, kw, C_in)`` but weights as ``(C_in, kh, kw)``; here both
    have the second order.

    Adaptation changes a layer's Hessian only if it moves a weight before the layer: never
    that of the first layer, and no layer's with :func:`~metalearn_tut.learners.anil` or with one
    step from a zero head, which move the head alone.

    Examples
    --------
    >>> from metalearn_tut import models
    >>> x, y = torch.rand(5, 1, 28, 28), torch.arange(5)
    >>> hessians = layer_hessians(MAML(models.Conv4(1, ways=5)), [Task(x, y, x, y)])
    >>> hessians["head"].inverse.shape, hessians["head"].rows
    (torch.Size([33, 33]), 5)
    """
    check_capture(learner, data, patch_stride)
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge must be finite and >= 0, got {ridge}")
    if not len(tasks):
        raise ValueError("layer_hessians needs at least one task, got none")
    chosen = prunable_layers(learner, layers)
    check_untied(learner, chosen)
    has_bias = {name: len(free_leaves(learner, name)) == 2 for name in chosen}
    sums: dict[str, Tensor] = {}
    rows = dict.fromkeys(chosen, 0)
    for i, task in enumerate(tasks):
        # float64, so that neither the order nor the batching of tasks can be seen in the sum
        def see(name: str, x: Tensor, i: int = i) -> None:
            if not torch.isfinite(x).all():
                raise ValueError(
                    f"the Hessian of layer {name!r} is not finite: its inputs are not after "
                    f"adapting to task {i} (inner_lr too high?)"
                )
            x = patches(chosen[name], x, patch_stride, bias=has_bias[name])
            sums.setdefault(name, x.new_zeros(x.shape[1], x.shape[1])).addmm_(x.T, x)
            rows[name] += len(x)

        watch(learner, task, chosen, see, inner_steps=inner_steps, data=data)
    if missing := [name for name in chosen if not rows[name]]:
        raise ValueError(
            f"layer {missing[0]!r} is given no input in the model's forward pass; leave it out "
            "with layers="
        )
    return {n: LayerHessian(n, sums[n] / rows[n], rows[n], ridge) for n in chosen}
