"""A learner's answer to one task: a function of inputs, which can be deployed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel import functional, query_outputs
from metalearn_tut.bilevel.checks import check_tensor
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.models import deploy
from metalearn_tut.models.bound import with_tensors, without_statistics
from metalearn_tut.models.deploy import with_statistics
from metalearn_tut.tasks.task import as_float, check_one_scale


class Predictor:
    """A network adapted to one task: call it on inputs, or deploy it.

    It is a function: the same input gets the same answer, whatever becomes of the learner, of
    the tensors that it was made from, or in other threads. Dropout is off. Batch norms of
    PyTorch that have no statistics to read have those of the support set, under the adapted
    parameters.

    Parameters
    ----------
    model : nn.Module
        The architecture. It is copied, as the other two.
    params : mapping of name to Tensor
        The adapted parameters.
    support_x : Tensor
        The support inputs, whose statistics ``norm="support"`` normalizes by.
    learned_statistics : bool, default False
        Whether running statistics are learned while the network trains: in training mode, too,
        they are then read and not replaced.

    Attributes
    ----------
    model : nn.Module
        The model in evaluation mode with the adapted parameters.
    network : nn.Module
        The same with the support set's statistics where it lacks its own: what answers.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        params: Mapping[str, Tensor],
        support_x: Tensor,
        *,
        learned_statistics: bool = False,
    ) -> None:
        self.params = {n: p.detach().clone() for n, p in params.items()}
        self.support_x = support_x.detach().clone()
        lost = without_statistics(model, learned=learned_statistics)
        self.model = with_tensors(model, self.params, training=False, by_batch=lost)
        self.network = self.model
        if norm_of(model) == "none":  # a network of this package says what it normalizes by
            x = self._read(self.support_x)
            self.network = with_statistics(self.model, lambda network: self._run(network, x))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[B, ways]`` for inputs ``x [B, ...]``.

        ``uint8`` images are scaled to 0..1; floats are taken as they are, and have to be on the
        scale of the support set. With ``norm="batch"`` the rows of ``x`` are normalized
        together (transductive): one image's answer depends on the others. With
        ``norm="support"`` it does not (inductive).

        Raises
        ------
        ValueError
            If one of ``x`` and the support set holds ``uint8`` images, and the other numbers
            outside 0..1.
        """
        check_tensor("x", x)
        if x.ndim != self.support_x.ndim:
            raise ValueError(
                f"x must have {self.support_x.ndim} dimensions, as the support set of shape "
                f"{list(self.support_x.shape)}, got shape {list(x.shape)}: for one example, "
                "x.unsqueeze(0)"
            )
        check_one_scale(self.support_x, x)
        return self._outputs(self._read(self.support_x), self._read(x))

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        """An ordinary network for this task: see :func:`metalearn_tut.models.deploy`."""
        support = self._read(self.support_x)
        with torch.autocast(support.device.type, enabled=False):
            return self._deployed(support)

    def _read(self, x: Tensor) -> Tensor:
        """Inputs as the network reads them: scaled if images, in its dtype, on its device."""
        like = next(self.model.parameters())
        return as_float(x.to(like.device), like.dtype)

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        """Call every layer that the answer depends on."""
        return network(x.clone())  # a first layer may write into its input

    def _outputs(self, support_x: Tensor, x: Tensor) -> Tensor:
        forward = functional(self.network)
        return query_outputs(forward, {}, support_x, x, norm_of(self.network))

    def _deployed(self, support_x: Tensor) -> nn.Module:
        return deploy(self.network, {}, support_x, expected=self(self.support_x))
