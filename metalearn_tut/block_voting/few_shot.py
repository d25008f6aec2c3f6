"""Votes of few-shot tasks on the blocks of a meta-trained network. Ours, not the paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.block_voting.images import batches
from metalearn_tut.block_voting.networks.block_gated_resnet12 import BlockGatedResNet12
from metalearn_tut.block_voting.votes import RULES, Votes, votes_of
from metalearn_tut.checks import as_integer, check_choice
from metalearn_tut.learners.maml import MAML
from metalearn_tut.tasks.sampler import TaskSampler


def task_marks(learner: MAML, sampler: TaskSampler, n_tasks: int) -> Tensor:
    """Marks of the query images of the sampler's first tasks, after adapting to each.

    Parameters
    ----------
    learner : MAML
        Its model is a :class:`~metalearn_tut.block_voting.BlockGatedResNet12`. It adapts to
        a task's support set, gates included, and is deployed: with statistics of the support
        set, so that each query image is marked alone.
    sampler : TaskSampler
    n_tasks : int

    Returns
    -------
    Tensor [T, M, 4]
        Of T tasks with M query images.

    Raises
    ------
    TypeError
        If the learner's model is another network.
    ValueError
        If ``n_tasks`` is below 1: nobody votes.
    """
    _model(learner)
    count = as_integer(n_tasks)
    if count is None or count < 1:
        raise ValueError(
            f"the voting set is empty: n_tasks must be an integer >= 1, got {n_tasks!r}"
        )
    marks = []
    for task in (sampler[i] for i in range(count)):
        network = learner.adapt(task.support_x, task.support_y).deploy()
        with torch.no_grad():
            marks.append(torch.cat([network.marks(x) for x in batches(network, task.query_x)]))
    return torch.stack(marks).cpu()


def vote_by_tasks(
    learner: MAML,
    sampler: TaskSampler,
    *,
    n_prune: int,
    n_tasks: int = 100,
    ballots: str = "task",
    rule: str = "argmin",
    heal: Callable[[MAML], Any] | None = None,
    **settings: Any,
) -> list[Votes]:
    """Prune blocks of the learner's model in place, one after another, as tasks vote.

    Each task adapts the network to its support set; then it votes by the marks that its query
    images get, and the block with most votes loses its residual branch. The labels of query
    images are not looked at.

    Parameters
    ----------
    learner : MAML
        Meta-trained, with fixed inner rates, on a
        :class:`~metalearn_tut.block_voting.BlockGatedResNet12`.
    sampler : TaskSampler
        Training tasks. The first ``n_tasks`` vote, the same in every round.
    n_prune : int
        Blocks that go, 0..3.
    n_tasks : int, default 100
    ballots : {"task", "image"}
        One ballot for each task, by its mean marks, or one for each query image.
    rule, **settings
        As for :func:`count_votes`.
    heal : callable, optional
        Called with the learner after every prune, for example with
        ``lambda learner: meta_train(learner, sampler, steps=200)``.

    Returns
    -------
    list of Votes
        One a round; the first of each ``ranking()`` went. When all is done,
        ``learner.model.ungated()`` is the network with masks 1.

    Raises
    ------
    TypeError
        If the learner's model is another network.
    ValueError
        If ``n_prune`` is more than may be pruned, or an argument is out of range.
    """
    model = _model(learner)
    check_choice("ballots", ballots, ("task", "image"))
    check_choice("rule", rule, RULES)
    count = as_integer(n_prune)
    if count is None or not 0 <= count <= len(model.candidates):
        raise ValueError(
            f"n_prune must be an integer in 0..{len(model.candidates)} (blocks that may be "
            f"pruned), got {n_prune!r}"
        )
    if learner.rate_mode != "fixed":  # its rates would be those of blocks that are gone
        raise ValueError(f"blocks can be pruned with rate_mode='fixed', got {learner.rate_mode!r}")
    rounds = []
    for _ in range(count):
        marks = task_marks(learner, sampler, n_tasks)[..., list(model.candidates)].double()
        cast = marks.mean(1) if ballots == "task" else marks.flatten(0, 1)
        votes = votes_of(cast, model.candidates, rule, **settings)
        model.prune(votes.ranking()[0])
        rounds.append(votes)
        if heal is not None:
            heal(learner)
    return rounds


def _model(learner: MAML) -> BlockGatedResNet12:
    if not isinstance(learner.model, BlockGatedResNet12):
        raise TypeError(f"tasks vote on a BlockGatedResNet12, got {type(learner.model).__name__}")
    return learner.model
