"""Prune in rounds, with masked meta-training between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.checks import check_choice, check_count, check_index, check_seed
from metalearn_tut.files.content import as_json, described
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.learners.maml import MAML
from metalearn_tut.saliency.capture import check_capture, check_untied, prunable_layers
from metalearn_tut.saliency.hessians import layer_hessians
from metalearn_tut.saliency.masks import (
    Masks,
    check_pruned,
    check_schedule,
    full_masks,
    kept_fraction,
    layer_fractions,
    select,
)
from metalearn_tut.saliency.round_files import Pruned, RoundFolder
from metalearn_tut.saliency.scoring import SCORES, remove, scores_of
from metalearn_tut.tasks.sampler import TaskSampler

Retrain = Callable[[MAML, int], Any]


def anp_prune(
    learner: MAML,
    sampler: TaskSampler,
    schedule: Sequence[float] = (0.1,) * 8 + (0.05,),
    retrain: Retrain | None = None,
    *,
    score: str = "anp",
    n_tasks: int = 20,
    first_task: int = 0,
    layers: Sequence[str] | None = None,
    allocation: str = "uniform",
    spare: Sequence[str] = (),
    inner_steps: int | None = None,
    data: str = "support",
    patch_stride: int = 1,
    ridge: float = 1e-6,
    guard: float = 1e-5,
    update_hinv: bool = False,
    compensate: bool = True,
    seed: int = 0,
    note: Mapping[str, Any] | None = None,
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
    schedule : sequence of float, default nine rounds down to 15 %
        Share of all prunable weights (biases included, norms not) to take in each round.
    retrain : callable, optional
        Trains the masked learner, say with :func:`~metalearn_tut.training.meta_train`. A
        mapping that it returns (numbers, of any library) goes into the history as JSON.
    score : {"anp", "lobs", "magnitude", "random", "snip", "meta_snip", "meta_taylor"}
        ``"anp"``: :func:`obs_scores` with the Hessians at adapted weights; ``"lobs"``: at the
        meta-learned weights (``inner_steps=0``); the others: see :func:`magnitude_scores`,
        :func:`random_scores` and :func:`gradient_scores`.
    n_tasks, first_task : int, default 20 and 0
        Tasks per round, and the index of the very first.
    layers : sequence of names, optional
        Layers that are pruned and counted; all by default. See :func:`prunable_layers`.
    allocation, spare
        Which layers give how much: see :func:`select`.
    inner_steps, data, patch_stride, ridge
        See :func:`layer_hessians`.
    guard, update_hinv
        See :func:`obs_scores` and :func:`prune_layer`.
    compensate : bool, default True
        Whether the weights that stay make up for those that go, whatever the score: a score
        says which weights go, this what becomes of the others.

        =====================  ===========================  ====================================
        ..                     ``compensate=True``          ``compensate=False``
        =====================  ===========================  ====================================
        ``"anp"``, ``"lobs"``  OBS, whose score assumes it  OBS's ranking, the rest stays
        the others             the same surgery, with the   as magnitude, SNIP and the like are
                               Hessians of ``"anp"``        published: the rest stays
        =====================  ===========================  ====================================
    seed : int, default 0
        Of ``"random"``.
    note : mapping, optional
        More for the files, by content, such as what ``retrain`` depends on: a run with another
        note is not gone on with.
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
    given = dict(locals())
    check_choice("score", score, SCORES)
    check_choice("compensate", compensate, (True, False))
    check_choice("update_hinv", update_hinv, (True, False))
    schedule = _shares_of(schedule)
    (n_tasks,) = check_count(n_tasks=n_tasks)
    first_task, seed = check_index(first_task), check_seed(seed)
    check_capture(learner, data, patch_stride)
    chosen = prunable_layers(learner, layers)
    if compensate or score in ("anp", "lobs"):
        check_untied(learner, chosen)
    config = {} if out is None else {n: described(given[n]) for n in _COMPARED}
    config |= {} if note is None else {"note": described(note)}
    folder = RoundFolder(out, learner, config | {"schedule": schedule})
    done, history = folder.begin(resume)
    masks, where = full_masks(learner, layers), {"allocation": allocation, "spare": spare}
    check_schedule(masks, schedule[done:], first=done + 1, **where)
    if not done:
        folder.keep(0, history)
    hessian = {"layers": layers, "data": data, "patch_stride": patch_stride, "ridge": ridge}
    surgery = {"guard": guard, "update_hinv": update_hinv}
    shown = {"initial": done, "unit": "round", "desc": "prune", "show": progress}
    with progress_bar(len(schedule), **shown) as bar:
        for number in range(done + 1, len(schedule) + 1):
            start = first_task + (number - 1) * n_tasks
            tasks = sampler.tasks(range(start, start + n_tasks)).blind()
            scores, hessians = scores_of(
                learner, tasks, score, inner_steps=inner_steps, seed=seed + (number << 32),
                **hessian, **surgery,
            )  # fmt: skip
            masks = select(scores, masks, schedule[number - 1], allocation=allocation, spare=spare)
            if compensate and not hessians:
                hessians = layer_hessians(learner, tasks, inner_steps=inner_steps, **hessian)
            remove(learner, masks, hessians if compensate else {}, **surgery)
            record = {"round": number, **_shares(learner, masks)}
            record["condition"] = {n: h.condition for n, h in hessians.items()}
            returned = None if retrain is None else retrain(learner, number)
            record["retrained"] = as_json(returned) if isinstance(returned, Mapping) else {}
            check_pruned(parameters_of(learner.model), masks)
            _check_kept(full_masks(learner, layers), masks)
            history.append(record)
            folder.keep(number, history)
            bar.set_postfix(kept=f"{record['kept']:.0%}", refresh=False)
            bar.update()
    return Pruned(masks, history)


_COMPARED = (
    *("learner", "sampler", "score", "n_tasks", "first_task", "layers", "allocation", "spare"),
    *("inner_steps", "data", "patch_stride", "ridge", "guard", "update_hinv", "compensate", "seed"),
)


def _check_kept(own: Masks, masks: Masks) -> None:
    """Make sure that the learner still has its masks: without, pruned weights grow again."""
    for name, mask in masks.items():
        if not torch.equal(own[name].to(mask.device), mask):
            raise RuntimeError(
                f"the mask of {name} is another one after retraining: pruned weights would grow "
                "again, or more are gone than the schedule says; leave the learner its masks"
            )


def _shares_of(schedule: Sequence[float]) -> list[float]:
    """A schedule as numbers, whatever sequence it is."""
    try:
        return [float(step) for step in schedule]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"schedule must be a sequence of shares, one for each round, got {schedule!r}"
        ) from error


def _shares(learner: MAML, masks: Masks) -> dict[str, Any]:
    """Kept of the prunable weights, of all of the network's, and of each layer's."""
    metas = learner.meta_parameters()
    params = parameters_of(learner.model).items()
    sizes = {n: p.numel() for n, p in params if n in metas or not p.requires_grad}
    kept = {n: int(masks[n].sum()) if n in masks else size for n, size in sizes.items()}
    everything = sum(kept.values()) / sum(sizes.values())
    shares = {"kept": kept_fraction(masks), "kept_all": everything}
    return {**shares, "layers": layer_fractions(masks)}
