"""Prune in rounds, with masked meta-training between them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.files.content import as_json, described
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.learners.maml import MAML
from metalearn_tut.machine import keep_memory
from metalearn_tut.saliency.capture import check_capture, check_untied, prunable_layers
from metalearn_tut.saliency.hessians import layer_hessians
from metalearn_tut.saliency.masks import (
    Masks,
    check_pruned,
    full_masks,
    kept_fraction,
    layer_fractions,
    select,
)
from metalearn_tut.saliency.plan import Criterion, Rounds, check_schedule
from metalearn_tut.saliency.round_files import Pruned, RoundFolder
from metalearn_tut.saliency.scoring import remove, scores_of
from metalearn_tut.tasks.sampler import TaskSampler


def anp_prune(
    learner: MAML,
    sampler: TaskSampler,
    rounds: Rounds | Sequence[float] = Rounds.schedule,
    criterion: Criterion | str = "anp",
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Pruned:
    """Prune a meta-trained learner in rounds: score, remove, make up for it, train on.

    Round r = 1, 2, ... adapts to tasks ``first_task + (r - 1) n_tasks`` and following, scores
    every weight (all layers before any is pruned), takes the share ``schedule[r - 1]`` away,
    lets the others compensate, sets the learner's masks and calls ``retrain(learner, r)``.

    Parameters
    ----------
    learner : MAML
        Meta-trained, or a relative (:func:`~metalearn_tut.learners.anil`, ``Reptile``, learned
        rates). Changed in place. Masks that it has count as rounds before the first.
    sampler : TaskSampler
        The tasks to score by, usually training tasks. Their tags are not looked at.
    rounds : Rounds, or a schedule alone
        How much goes in each round, and the training that follows; by default nine rounds down
        to 15 % without training.
    criterion : Criterion, or the name of its method
        Which weights go, and what becomes of the others.
    out : path, optional
        Folder for ``round_01.safetensors`` and so on: weights, masks and history after each
        round; ``round_00.safetensors`` is the learner as it came.
    resume : bool, default False
        Go on after the last round in ``out``. The result is bitwise that of a run that was
        never stopped, if ``retrain`` depends on nothing but learner and round. Later shares of the
        schedule may be others than before.
    progress : bool, default True
        Show a bar with the share that is kept.

    Returns
    -------
    Pruned
        ``history[r - 1]`` holds ``round``, ``kept`` (share of the prunable weights),
        ``kept_all`` (share of all the network's parameters but a head at zero, norms and frozen
        ones included: the figure in the names of the authors' checkpoints), ``layers`` (share
        kept of each), ``condition`` (of each Hessian, if there are any) and ``retrained``.

    Raises
    ------
    ValueError
        For an argument out of range; before the first round, for a schedule that takes more
        than there is or all of a layer; for a Hessian that is not finite; if ``out`` holds
        another run.
    RuntimeError
        If ``retrain`` moves pruned weights, or changes the masks.
    FileExistsError
        If ``out`` holds rounds and ``resume`` is False.
    OSError
        If a round cannot be written.

    Notes
    -----
    Schedule, tasks per round, ridge, guard and ``"uniform"`` are those of the authors' code,
    which retrains by 15,000 meta-steps of 4 tasks a round. The other allocations are ours.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from metalearn_tut import tasks
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> sampler = tasks.from_arrays(x, y).sampler(ways=3, shots=2, queries=2)
    >>> learner = MAML(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), 0.1)
    >>> masks, history = anp_prune(learner, sampler, (0.2, 0.3), progress=False)
    >>> [round(r["kept"], 2) for r in history], masks["0.weight"].shape
    ([0.81, 0.51], torch.Size([8, 4]))
    """
    keep_memory()
    rounds = rounds if isinstance(rounds, Rounds) else Rounds(rounds)
    criterion = Criterion(method=criterion) if isinstance(criterion, str) else criterion
    schedule = rounds.schedule
    _check_layers(learner, criterion)
    folder = RoundFolder(out, learner, _compared(learner, sampler, rounds, criterion, out))
    done, history = folder.begin(resume)
    masks = full_masks(learner, criterion.layers)
    where = {"allocation": criterion.allocation, "spare": criterion.spare}
    check_schedule(masks, schedule[done:], first=done + 1, **where)
    if not done:
        folder.keep(0, history)
    shown = {"initial": done, "unit": "round", "desc": "prune", "show": progress}
    with progress_bar(len(schedule), **shown) as bar:
        for number in range(done + 1, len(schedule) + 1):
            now = criterion.in_round(number)
            masks, condition = _prune(learner, sampler, masks, schedule[number - 1], now)
            record = {"round": number, **_shares(learner, masks), "condition": condition}
            returned = None if rounds.retrain is None else rounds.retrain(learner, number)
            record["retrained"] = as_json(returned) if isinstance(returned, Mapping) else {}
            check_pruned(parameters_of(learner.model), masks)
            _check_kept(full_masks(learner, criterion.layers), masks)
            history.append(record)
            folder.keep(number, history)
            bar.set_postfix(kept=f"{record['kept']:.0%}", refresh=False)
            bar.update()
    return Pruned(masks, history)


def _check_layers(learner: MAML, criterion: Criterion) -> None:
    """Refuse a learner, or layers, that cannot be pruned as the criterion says."""
    check_capture(learner, criterion.data, criterion.patch_stride)
    chosen = prunable_layers(learner, criterion.layers)
    if criterion.compensate or criterion.has_hessians:
        check_untied(learner, chosen)


def _compared(
    learner: MAML, sampler: TaskSampler, rounds: Rounds, criterion: Criterion, out: Any
) -> dict[str, Any]:
    """What two runs must have in common to be one; nothing where nothing is kept."""
    if out is None:
        return {"schedule": rounds.schedule}
    parts = {"learner": learner, "sampler": sampler, "criterion": criterion}
    parts |= {} if rounds.note is None else {"note": rounds.note}
    return {n: described(part) for n, part in parts.items()} | {"schedule": rounds.schedule}


def _prune(
    learner: MAML, sampler: TaskSampler, masks: Masks, step: float, criterion: Criterion
) -> tuple[Masks, dict[str, float]]:
    """Take a share of the weights: the new masks, and the condition of each Hessian."""
    first = criterion.first_task
    tasks = sampler.tasks(range(first, first + criterion.n_tasks)).blind()
    scores, hessians = scores_of(learner, tasks, criterion)
    where = {"allocation": criterion.allocation, "spare": criterion.spare}
    masks = select(scores, masks, step, **where)
    if criterion.compensate and not hessians:
        steps = criterion.inner_steps
        hessians = layer_hessians(learner, tasks, inner_steps=steps, **criterion.hessian)
    remove(learner, masks, hessians if criterion.compensate else {}, **criterion.surgery)
    return masks, {n: h.condition for n, h in hessians.items()}


def _check_kept(own: Masks, masks: Masks) -> None:
    """Make sure that the learner still has its masks: without, pruned weights grow again."""
    for name, mask in masks.items():
        if not torch.equal(own[name].to(mask.device), mask):
            raise RuntimeError(
                f"the mask of {name} is another one after retraining: pruned weights would grow "
                "again, or more are gone than the schedule says; leave the learner its masks"
            )


def _shares(learner: MAML, masks: Masks) -> dict[str, Any]:
    """Kept of the prunable weights, of all of the network's, and of each layer's."""
    metas = learner.meta_parameters()
    params = parameters_of(learner.model).items()
    sizes = {n: p.numel() for n, p in params if n in metas or not p.requires_grad}
    kept = {n: int(masks[n].sum()) if n in masks else size for n, size in sizes.items()}
    everything = sum(kept.values()) / sum(sizes.values())
    shares = {"kept": kept_fraction(masks), "kept_all": everything}
    return {**shares, "layers": layer_fractions(masks)}
