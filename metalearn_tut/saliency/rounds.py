"""Prune in rounds, with masked meta-training between them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.bilevel import parameters_of
from metalearn_tut.maml import MAML
from metalearn_tut.saliency.capture import check_capture, parameter_name, prunable_layers
from metalearn_tut.saliency.gradient_scores import (
    KINDS,
    gradient_scores,
    magnitude_scores,
    random_scores,
)
from metalearn_tut.saliency.hessians import LayerHessian, layer_hessians
from metalearn_tut.saliency.masks import (
    Masks,
    check_pruned,
    check_schedule,
    full_masks,
    kept_fraction,
    layer_fractions,
    select,
)
from metalearn_tut.saliency.obs import Scores, obs_scores, prune_layer
from metalearn_tut.saliency.round_files import Pruned, RoundFolder
from metalearn_tut.tasks.progress import progress_bar
from metalearn_tut.tasks.sampler import TaskSampler, check_choice, check_count
from metalearn_tut.tasks.task import TaskBatch

SCORES = ("anp", "lobs", "magnitude", "random", *KINDS)
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
    compensate: bool | None = None,
    seed: int = 0,
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
        Meta-trained, or a relative (:func:`~metalearn_tut.maml.anil`, ``Reptile``, learned
        rates). Changed in place. Masks that it has count as rounds before the first.
    sampler : TaskSampler
        The tasks to score by, usually training tasks. Their tags are not looked at.
    schedule : sequence of float, default nine rounds down to 15 %
        Share of all prunable weights (biases included, norms not) to take in each round.
    retrain : callable, optional
        Trains the masked learner, say with :func:`~metalearn_tut.training.meta_train`. A
        mapping that it returns (JSON, e.g. an accuracy) goes into the history.
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
    compensate : bool, optional
        Whether the weights that stay make up for those that go; by default with ``"anp"`` and
        ``"lobs"``. Other scores compensate with the Hessians of ``"anp"``.
    seed : int, default 0
        Of ``"random"``.
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
        ``kept_all`` (share of all the network's meta-parameters, norms included: the figure in
        the names of the authors' checkpoints), ``layers`` (share kept of each), ``condition``
        (of each Hessian, if there are any) and ``retrained``.

    Raises
    ------
    ValueError
        For an argument out of range; before the first round, for a schedule that takes more
        than there is or all of a layer; for a Hessian that is not finite; if ``out`` holds
        another run.
    RuntimeError
        If ``retrain`` moves pruned weights.
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
    config = {n: _json(given[n]) for n in _COMPARED} | {"learner": type(learner).__name__}
    check_choice("score", score, SCORES)
    check_count(n_tasks=n_tasks)
    check_capture(learner, data, patch_stride)
    prunable_layers(learner, layers)
    folder = RoundFolder(out, learner, config | {"schedule": [float(step) for step in schedule]})
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
            remove(learner, masks, {} if compensate is False else hessians, **surgery)
            record = {"round": number, **_shares(learner, masks)}
            record["condition"] = {n: h.condition for n, h in hessians.items()}
            returned = None if retrain is None else retrain(learner, number)
            record["retrained"] = dict(returned) if isinstance(returned, Mapping) else {}
            check_pruned(parameters_of(learner.model), masks)
            history.append(record)
            folder.keep(number, history)
            bar.set_postfix(kept=f"{record['kept']:.0%}", refresh=False)
            bar.update()
    return Pruned(masks, history)


_COMPARED = (
    *("sampler", "score", "n_tasks", "first_task", "layers", "allocation", "spare", "inner_steps"),
    *("data", "patch_stride", "ridge", "guard", "update_hinv", "compensate", "seed"),
)


def scores_of(
    learner: MAML,
    tasks: TaskBatch,
    score: str,
    *,
    layers: Sequence[str] | None = None,
    inner_steps: int | None = None,
    seed: int = 0,
    guard: float = 1e-5,
    update_hinv: bool = False,
    **hessian: Any,
) -> tuple[Scores, dict[str, LayerHessian]]:
    """The scores of one of ``SCORES``, and the Hessians that they come from, if any.

    Arguments are those of :func:`anp_prune`.
    """
    check_choice("score", score, SCORES)
    if score in ("anp", "lobs"):
        steps = 0 if score == "lobs" else inner_steps
        hessians = layer_hessians(learner, tasks, layers=layers, inner_steps=steps, **hessian)
        return obs_scores(learner, hessians, guard=guard, update_hinv=update_hinv), hessians
    if score == "magnitude":
        return magnitude_scores(learner, layers=layers), {}
    if score == "random":
        return random_scores(learner, seed=seed, layers=layers), {}
    return gradient_scores(learner, tasks, kind=score, layers=layers, inner_steps=inner_steps), {}


def remove(
    learner: MAML,
    masks: Mapping[str, Tensor],
    hessians: Mapping[str, LayerHessian],
    *,
    guard: float = 1e-5,
    update_hinv: bool = False,
) -> None:
    """Set the learner's masks; in layers with a Hessian the weights that stay compensate first."""
    params = parameters_of(learner.model)
    for layer, h in hessians.items():
        names = [parameter_name(layer, leaf) for leaf in ("weight", "bias")]
        old, keep = ([tensors.get(n) for n in names] for tensors in (params, masks))
        new = prune_layer(*old, *keep, h, guard=guard, update_hinv=update_hinv)
        with torch.no_grad():
            for tensor, value in zip(old, new, strict=True):
                if value is not None:
                    tensor.copy_(value)
    learner.set_masks({**learner.masks, **masks})


def _shares(learner: MAML, masks: Masks) -> dict[str, Any]:
    trained = {n: p for n, p in learner.meta_parameters().items() if n not in learner.rates}
    sizes = {n: p.numel() for n, p in trained.items()}
    kept = {n: int(masks[n].sum()) if n in masks else size for n, size in sizes.items()}
    everything = sum(kept.values()) / sum(sizes.values())
    shares = {"kept": kept_fraction(masks), "kept_all": everything}
    return {**shares, "layers": layer_fractions(masks)}


def _json(value: Any) -> Any:
    """An argument as JSON; of an object its text, without its address in memory."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return re.sub(" at 0x[0-9a-fA-F]+", "", repr(value))
