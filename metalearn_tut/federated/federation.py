"""A federated run as a value: who takes part, and what each does in a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

import torch

from metalearn_tut.checks import check_choice, check_count, check_seed
from metalearn_tut.federated.aggregation import Reply, State, load_state, state_of
from metalearn_tut.federated.nodes import Node, NodeSampler
from metalearn_tut.files.content import content_hash
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.state import networks_of, settings_of
from metalearn_tut.machine.threads import in_threads
from metalearn_tut.models.random_masks import noise_from
from metalearn_tut.tasks.sampler import distinct, raw_draws

_CLIENTS, _NOISE = 2**32, 2**33  # streams of random numbers, one a purpose


@dataclass(frozen=True, eq=False)
class Federation:
    """Everything that decides a federated run, the same for every process that takes part.

    In a round the server sends its state to a random share of the nodes. Each takes
    ``local_steps`` steps ``p <- p - outer_lr · grad F_i`` on its own tasks and sends its state
    back; the server averages them, weighted by the nodes' numbers of images.

    Parameters
    ----------
    learner : Learner
        Its meta-parameters at the start are the server's; a process that trains changes them.
    nodes : sequence of Node
        Those that train.
    rounds : int
    support, query : int
        Images in each set of a task.
    fraction : float, default 0.2
        Share of the nodes that are asked in a round, in (0, 1]; one node at least.
    local_steps : int, default 5
        T_0, steps of a client between two averages.
    tasks_per_step : int, default 1
        Tasks that a client draws for a step.
    outer_lr : float, default 0.2
        Step size of the local steps (plain gradient descent).
    gate_outer_lr : float or None, default 3
        That of parameters called ``gates.*``; None is ``outer_lr``.
    equal_weights : bool, default False
        Average with equal weights.
    seed : int, default 0
        Who is asked, what tasks are drawn, what noise the learner draws.

    Raises
    ------
    ValueError
        For a number out of range; for a node with fewer images than a task needs, or two of one
        number, naming them; or if all of the learner's parameters are frozen.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> from metalearn_tut.federated import by_classes, per_fed_avg
    >>> source = tasks.from_arrays(torch.randn(120, 4), torch.arange(120) % 6)
    >>> nodes = by_classes(source, nodes=5, classes_per_node=2).train
    >>> learner = per_fed_avg(torch.nn.Linear(4, 6))
    >>> federation = Federation(learner, nodes, rounds=3, support=4, query=6, fraction=0.5)
    >>> federation.clients(0)
    [1, 3]
    """

    learner: Learner
    nodes: Sequence[Node]
    rounds: int
    support: int
    query: int
    fraction: float = 0.2
    local_steps: int = 5
    tasks_per_step: int = 1
    outer_lr: float = 0.2
    gate_outer_lr: float | None = 3.0
    equal_weights: bool = False
    seed: int = 0
    samplers: list[NodeSampler] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = ("rounds", "local_steps", "tasks_per_step")
        counts = check_count(**{name: getattr(self, name) for name in names})
        for name, count in zip(names, counts, strict=True):
            object.__setattr__(self, name, count)
        object.__setattr__(self, "seed", check_seed(self.seed))
        if not self.nodes:
            raise ValueError("nodes must not be empty")
        numbers = sorted(node.number for node in self.nodes)
        if twice := [b for a, b in pairwise(numbers) if a == b]:
            raise ValueError(f"nodes must have different numbers, and two have {twice[0]}")
        if not self.learner.meta_parameters():
            raise ValueError("the learner has nothing to train: all its parameters are frozen")
        check_choice("equal_weights", self.equal_weights, (True, False))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        for name in ("outer_lr", "gate_outer_lr"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise ValueError(f"{name} must be finite and >= 0, got {value}")
        support, query = check_count(support=self.support, query=self.query)
        object.__setattr__(self, "support", support)
        object.__setattr__(self, "query", query)
        samplers = [node.sampler(self.support, self.query, self.seed) for node in self.nodes]
        object.__setattr__(self, "samplers", samplers)

    def clients(self, round: int) -> list[int]:
        """Which nodes, by their place in ``nodes``, are asked in this round."""
        n = len(self.nodes)
        asked = max(1, int(self.fraction * n + 0.5))
        return sorted(distinct(raw_draws(self.seed, round, asked, _CLIENTS), n))

    def train(self, client: int, state: State, round: int) -> Reply:
        """What a client does in a round, from the server's state; changes the learner.

        Raises
        ------
        FloatingPointError
            If a loss is not finite.
        """
        load_state(self.learner, state)
        metas = self.learner.meta_parameters()
        like = next(iter(metas.values()))
        losses, accuracies = [], []
        for step in range(round * self.local_steps, (round + 1) * self.local_steps):
            batch = self.samplers[client].batch(step, self.tasks_per_step)
            with self._noise(client, step, like.device):
                found = self.learner.task_losses(batch.blind().to(like.device), round / self.rounds)
            value = found.losses.mean()
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss is {value.item()} in step {step}")
            gradients = torch.autograd.grad(value, list(metas.values()))
            with torch.no_grad():
                for (name, p), gradient in zip(metas.items(), gradients, strict=True):
                    p -= self._rate(name) * gradient
            losses.append(value.item())
            if found.accuracy is not None:
                accuracies.append(found.accuracy.mean().item())
        accuracy = sum(accuracies) / len(accuracies) if accuracies else None
        mean = sum(losses) / len(losses)
        return Reply(state_of(self.learner), self.nodes[client].size, mean, accuracy)

    def weight(self, reply: Reply) -> float:
        """What a reply counts in the average."""
        return 1.0 if self.equal_weights else float(reply.count)

    def describe(self) -> dict[str, Any]:
        """What two runs must have in common to be one, as JSON, and by content.

        That is :meth:`plan`, and of each node its images and their labels by a fingerprint.
        """
        nodes = {f"node {place}": node.settings() for place, node in enumerate(self.nodes)}
        return {**self.plan(), **nodes}

    def plan(self) -> dict[str, Any]:
        """What all that take part must have in common, as JSON.

        The numbers above, and of the learner its class and ``settings()``, and a fingerprint of
        its frozen parameters, which do not travel.
        """
        names = ("rounds", "support", "query", "fraction", "local_steps", "tasks_per_step")
        names += ("outer_lr", "gate_outer_lr", "equal_weights", "seed")
        learner = {f"learner.{name}": value for name, value in _learner(self.learner).items()}
        return {**learner, **{name: getattr(self, name) for name in names}}

    def _rate(self, name: str) -> float:
        own = self.gate_outer_lr if name.startswith("gates.") else None
        return self.outer_lr if own is None else own

    @contextmanager
    def _noise(self, client: int, step: int, device: torch.device) -> Iterator[None]:
        """The random numbers of a client's step: gates' from a generator of its own.

        What else a network draws comes from PyTorch's, one client after another.
        """
        number = int(raw_draws(self.seed, step, 1, _NOISE + client)[0] >> 1)
        with noise_from(torch.Generator(device).manual_seed(number)):
            if in_threads():
                yield
                return
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.default_generator.manual_seed(number)
                if device.type == "cuda":
                    torch.cuda.manual_seed(number)
                yield


def _learner(learner: Learner) -> dict[str, Any]:
    """What decides the result of a learner, but for what travels."""
    networks = networks_of(learner).items()
    frozen = {
        first + name: p
        for first, network in networks
        for name, p in network.named_parameters()
        if not p.requires_grad
    }
    own = {"kind": type(learner).__qualname__, **settings_of(learner)}
    if frozen:
        own["frozen content"] = content_hash(
            part for pair in sorted(frozen.items()) for part in pair
        )
    return own
