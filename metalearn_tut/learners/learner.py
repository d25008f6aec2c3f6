"""What a learner is: a PyTorch module that trains on tasks, and adapts to one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from metalearn_tut.bilevel import Params, trainable_of
from metalearn_tut.bilevel.forward import norm_of
from metalearn_tut.models.bound import with_tensors
from metalearn_tut.models.deploy import with_statistics
from metalearn_tut.tasks.task import TaskBatch


class TaskLosses(NamedTuple):
    """``losses [T]``, differentiable in the meta-parameters; ``accuracy [T]`` or None.

    Of a learner with a metric of its own, ``accuracy`` is that.
    """

    losses: Tensor
    accuracy: Tensor | None


class Learner(nn.Module):
    """A method, as training, evaluation, deployment and federation know it.

    It is a PyTorch module: ``parameters()`` are what an optimizer is given (those that no
    gradient reaches stay as they are), ``state_dict()`` is all that decides an answer, ``to()``
    moves it, ``train()`` and ``eval()`` set its networks' mode. It has three verbs of its own,
    :meth:`task_losses`, :meth:`adapt` and :meth:`settings`, which a subclass defines.

    Examples
    --------
    >>> import torch
    >>> from metalearn_tut import MAML
    >>> learner = MAML(nn.Linear(4, 3), rate_mode="shared").double()
    >>> {name: tuple(tensor.shape) for name, tensor in learner.state_dict().items()}
    {'rates': (), 'model.weight': (3, 4), 'model.bias': (3,)}
    >>> optimizer = torch.optim.Adam(learner.parameters())
    """

    in_threads = False
    """Whether several threads may use it at once; each class says so itself."""

    def task_losses(self, batch: TaskBatch, progress: float = 1.0) -> TaskLosses:
        """One loss per task; ``progress`` in 0..1 is the share of training done."""
        raise NotImplementedError(f"{type(self).__name__} must define task_losses(batch, progress)")

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Callable[[Tensor], Tensor]:
        """Learn one task from its support set; the result maps inputs to outputs."""
        raise NotImplementedError(f"{type(self).__name__} must define adapt(support_x, support_y)")

    def task_network(self, x: Tensor, y: Tensor, **options: Any) -> nn.Module:
        """The network that answers for one task: the core of :meth:`adapt`, which only computes.

        Nothing is checked and no value looked at, so that it can be traced with free sizes: see
        :func:`metalearn_tut.deployment.export_learner`. Call it on ``working(training=False)``.

        Parameters
        ----------
        x : Tensor [N·K, ...]
            Support inputs as the network reads them: floating, on its device.
        y : Tensor [N·K]
        **options
            Of :meth:`adapted`.

        Returns
        -------
        nn.Module
            A private copy whose tensors are functions of the support set, also the statistics
            that it normalizes by.
        """
        network = with_tensors(self.model, self.adapted(x, y, **options))
        if norm_of(self.model) == "batch":  # by those that come along
            return network
        return with_statistics(network, lambda rows: rows(x.clone()))

    def adapted(self, x: Tensor, y: Tensor, **options: Any) -> Params:
        """The parameters of the network that answers, adapted to a support set: only computed."""
        raise NotImplementedError(f"{type(self).__name__} must define adapted(x, y)")

    def drawn(self, rows: int) -> dict[str, Any]:
        """Options of the core that :meth:`adapt` draws at random for so many support inputs.

        Of more rows the first are the same.
        """
        return {}

    def settings(self) -> dict[str, Any]:
        """All that decides its results but its tensors, as JSON: saved with it, and compared."""
        raise NotImplementedError(f"{type(self).__name__} must define settings()")

    def meta_parameters(self) -> Params:
        """The tensors to train, by name: those of its networks that are not frozen."""
        parts = self.networks().items()
        return {f"{first}{n}": p for first, part in parts for n, p in trainable_of(part).items()}

    def networks(self) -> dict[str, nn.Module]:
        """Its networks, by what their tensors' names begin with among the meta-parameters.

        Their frozen parameters and their buffers are part of its state. By default there is one,
        ``self.model`` (or else the learner itself), whose names are as they are.
        """
        return {"": getattr(self, "model", self)}

    def forward(self, *inputs: Any) -> Tensor:
        """Refused: what a learner answers depends on a task.

        Raises
        ------
        TypeError
            With the way to an answer.
        """
        name = type(self).__name__
        raise TypeError(f"{name} answers after adapting: {name}.adapt(support_x, support_y)(x)")

    def __setattr__(self, name: str, value: Any) -> None:
        """PyTorch would keep a network beside a property of that name: a setter is asked first."""
        found = getattr(type(self), name, None)
        if isinstance(found, property):
            found.__set__(self, value)
        else:
            super().__setattr__(name, value)

    def __copy__(self) -> Learner:
        """A learner of the same parts: to give it another network leaves this one as it is."""
        twin = type(self).__new__(type(self))
        for name, value in vars(self).items():
            vars(twin)[name] = copy.copy(value) if isinstance(value, dict) else value
        return twin
