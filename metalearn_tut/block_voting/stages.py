"""The three stages of ABP in one call, and its first and its last."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn_tut.block_voting.epochs import History, check_trainable, train_epochs
from metalearn_tut.block_voting.images import Data, batches, like, tensors
from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.block_voting.objectives import Objective, cross_entropy
from metalearn_tut.block_voting.recipe import Augment, Recipe, crop_and_flip, standard_recipes
from metalearn_tut.block_voting.rounds import (
    Out,
    Round,
    file_in,
    held_accuracy,
    number_to_prune,
    vote_and_prune,
)
from metalearn_tut.block_voting.surgery import remove_blocks
from metalearn_tut.models.mode import evaluating


@dataclass(frozen=True)
class Final:
    """The outcome of stage 3.

    Parameters
    ----------
    network : nn.Module
        Shorter, without gates, trained.
    history : dict
        Loss and accuracy of its epochs.
    soft, ungated, tuned : float, optional
        Accuracies on the held-out images: with soft masks as stage 2 left them, after the masks
        jumped to 1, and after training.
    """

    network: nn.Module
    history: History
    soft: float | None = None
    ungated: float | None = None
    tuned: float | None = None


@dataclass(frozen=True)
class ShorterNetwork:
    """What :func:`abp_prune` made: the network, and how each stage went."""

    network: nn.Module
    gates: History
    rounds: list[Round]
    final: Final


def train_gates(
    gated: BlockGated,
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective = cross_entropy,
    out: Out = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Stage 1: train network and gates together, in place, by the task's loss alone.

    Parameters
    ----------
    gated : BlockGated
    data : LabelledImages or (images, labels)
        The training images.
    recipe : Recipe
    objective : callable, default cross-entropy
        Another one, e.g. :func:`target_rate`, for comparisons.
    out : path, optional
        Folder of the run. What an interrupted call left there is gone on from.
    seed, progress
        See :func:`train_epochs`, whose result this returns.

    Notes
    -----
    No loss but cross-entropy stands beside this stage in the paper's figure of its schedule.
    """
    return train_epochs(
        gated,
        data,
        recipe,
        objective,
        seed=seed,
        title="gates",
        file=file_in(out, "1-gates.safetensors"),
        progress=progress,
    )


def finalise(
    gated: BlockGated,
    data: Data,
    recipe: Recipe,
    *,
    held_out: Data | None = None,
    out: Out = None,
    seed: int = 0,
    progress: bool = True,
) -> Final:
    """Stage 3: no gates, no skipped blocks, and training of what is left.

    The pruned blocks are deleted, which is compared with masks of 0 and 1 on some images; then
    the short network is trained by cross-entropy. Masks that were soft are 1 now, so accuracy
    may dip before it recovers: all three accuracies are recorded.

    Parameters
    ----------
    gated : BlockGated
        After :func:`vote_and_prune`; left as it is.
    data, recipe, held_out, out, seed, progress
        As for :func:`vote_and_prune`.

    Raises
    ------
    RuntimeError
        If the short network does not compute what the masked one does.
    """
    network = remove_blocks(gated, gated.pruned)
    check_surgery(gated, network, data)
    soft, ungated = held_accuracy(gated, held_out), held_accuracy(network, held_out)
    history = train_epochs(
        network,
        data,
        recipe,
        seed=seed,
        title="final",
        file=file_in(out, "3-final.safetensors"),
        note={"pruned": sorted(gated.pruned)},
        progress=progress,
    )
    return Final(network, history, soft, ungated, held_accuracy(network, held_out))


def abp_prune(
    network: nn.Module,
    data: Data,
    *,
    ratio: float | None = None,
    n_prune: int | None = None,
    recipes: tuple[Recipe, Recipe, Recipe] | None = None,
    augment: Augment | None = crop_and_flip,
    held_out: Data | None = None,
    out: Out = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
    **voting: Any,
) -> ShorterNetwork:
    """Automatic block-wise pruning (ABP, arXiv:2205.03602), all three stages.

    Parameters
    ----------
    network : CifarResNet or BlockGated
        Fresh or trained, left as it is; with gates if they are not to be the usual ones, or if it
        is another network, whose blocks :class:`BlockGated` is told.
    data : LabelledImages or (images [M, 3, H, W], labels [M])
        The training images.
    ratio, n_prune
        How many blocks go, as for :func:`vote_and_prune`.
    recipes : three of Recipe, optional
        Of the training of gates, of each round, and at the end; by default
        :func:`standard_recipes`, which are our choice.
    augment : callable or None, default crop_and_flip
        Of the default recipes: padded by 4, cropped and mirrored. None (or another one) for
        images that are not natural; a :class:`Recipe` of your own says its own.
    held_out : LabelledImages or (images, labels), optional
        Images whose accuracy is recorded.
    out : path, optional
        Folder for a file per stage and round, written after every epoch.
    resume : bool, default False
        Go on from what is there. A run that was killed loses an epoch at most. Images, labels,
        recipes, augmentation, objectives and architecture are compared by content, and what
        differs is named; weights are those of the files.
    seed : int, default 0
        Of new gates, and of the order of images.
    progress : bool, default True
        Show a bar for each stage and round.
    **voting
        ``rule``, ``tau``, ``per_round``, ``temperature``, ``kd_weight``: see
        :func:`vote_and_prune`.

    Raises
    ------
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    ValueError
        As the stages.

    Examples
    --------
    >>> from metalearn_tut.models import CifarResNet
    >>> images, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    >>> short = Recipe(1, 0.01)
    >>> pruned = abp_prune(CifarResNet(20, classes=3), (images, labels), ratio=0.25,
    ...                    recipes=(short, short, short), progress=False)
    >>> len(pruned.network.blocks), [len(r.removed) for r in pruned.rounds]
    (7, [1, 1])
    """
    if out is not None and not resume and any(Path(out).expanduser().glob("*.safetensors")):
        raise FileExistsError(f"{out} holds a run: go on with it (resume=True) or name another")
    if recipes is not None and augment is not crop_and_flip:
        raise ValueError("augment is that of the default recipes: give it with each Recipe")
    if len(first_middle_last := recipes or standard_recipes(augment)) != 3:
        raise ValueError(f"recipes must be three, got {len(first_middle_last)}")
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        is_gated = isinstance(network, BlockGated)
        gated = copy.deepcopy(network) if is_gated else BlockGated(network)
    check_trainable(gated.network)  # the gates alone could be trained, but are gone in the end
    number_to_prune(gated, ratio, n_prune, **voting)  # refused now, and not hours later
    if held_out is not None:
        tensors(gated, held_out)
    first, middle, last = first_middle_last
    shared = {"out": out, "seed": seed, "progress": progress}
    history = train_gates(gated, data, first, **shared)
    counts = {"ratio": ratio, "n_prune": n_prune, "held_out": held_out}
    rounds = vote_and_prune(gated, data, middle, **counts, **voting, **shared)
    final = finalise(gated, data, last, held_out=held_out, **shared)
    return ShorterNetwork(final.network, history, rounds, final)


def check_surgery(gated: BlockGated, network: nn.Module, data: Data) -> None:
    """Compare a shortened network with masks of 0 and 1, on eight images.

    Raises
    ------
    RuntimeError
        If their logits differ by more than rounding.
    """
    kept = [0.0 if block in gated.pruned else 1.0 for block in gated.numbers]
    x = next(batches(gated, data[0][:8]))
    with evaluating(gated, network):
        masked, short = gated(x, torch.tensor(kept).to(like(gated))), network(x)
    gap, size = (masked - short).abs().max().item(), masked.abs().max().item()
    if not gap <= 1e-4 * (1 + size):
        raise RuntimeError(f"removing blocks changed logits of size {size:.3g} by {gap:.3g}")
