"""Stage 2 of ABP: vote, prune and distil, again and again."""

from __future__ import annotations

import copy
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from metalearn_tut.block_voting.epochs import History, train_epochs
from metalearn_tut.block_voting.images import Data, image_accuracy
from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.block_voting.objectives import check_distillation, distillation
from metalearn_tut.block_voting.recipe import Recipe
from metalearn_tut.block_voting.surgery import block_budget, frozen_blocks, most_prunable
from metalearn_tut.block_voting.votes import RULES, Votes, collect_votes
from metalearn_tut.checks import as_integer, check_choice, check_count
from metalearn_tut.files.cache import atomic_write, remove_partial
from metalearn_tut.files.tensor_file import check_same_run, read_tensors

Out = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Round:
    """One round of stage 2.

    Parameters
    ----------
    removed : tuple of int
        The blocks that went, one by default.
    votes : Votes
        Why they did.
    history : dict
        Loss and accuracy of the epochs after it.
    accuracy : float, optional
        On the held-out images, at the end of the round.
    """

    removed: tuple[int, ...]
    votes: Votes
    history: History
    accuracy: float | None = None


def vote_and_prune(
    gated: BlockGated,
    data: Data,
    recipe: Recipe,
    *,
    ratio: float | None = None,
    n_prune: int | None = None,
    rule: str = "argmin",
    tau: float = 0.5,
    per_round: int = 1,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    held_out: Data | None = None,
    out: Out = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Round]:
    """Stage 2: again and again, vote, prune a block, and distil, in place.

    A round: all training images vote; the block with most votes is skipped from now on; the
    network as it was before teaches the network as it is now. The gates of all other blocks stay
    soft, and go on learning.

    Parameters
    ----------
    gated : BlockGated
        After :func:`train_gates`.
    data : LabelledImages or (images, labels)
        The training images; they vote without augmentation.
    recipe : Recipe
        Of each round.
    ratio : float, optional
        Share of the blocks to prune in all: see :func:`block_budget`.
    n_prune : int, optional
        Their number, instead. One of the two is needed, but for the rule ``"threshold"``, which
        stops by itself once no block is named by more than half of the ballots. Both count the
        blocks that are pruned already.
    rule, tau
        What a ballot names: see :func:`count_votes`. With ``"bottom_q"``, q is the number of
        blocks still to prune.
    per_round : int, default 1
        Blocks that go in a round; all at once is one-shot pruning.
    temperature, kd_weight : float, default 4 and 0.9
        Of distillation, beside cross-entropy; a weight of 0 is none.
    held_out : LabelledImages or (images, labels), optional
        Images whose accuracy is recorded.
    out : path, optional
        Folder of the run. What an interrupted call left there is gone on from, epoch by epoch;
        ``votes.json`` holds the votes of all rounds.
    seed, progress
        See :func:`train_epochs`.

    Returns
    -------
    list of Round
        One per round; empty if nothing is to be pruned.

    Raises
    ------
    ValueError
        If there is no image, the ratio or number is out of range, or ``out`` holds another run.

    Notes
    -----
    The paper's figure shows the stage with one block per round and both losses. Which network
    teaches, and that gates go on learning, is read from that figure; the rest is our
    reconstruction.
    """
    (per_round,) = check_count(per_round=per_round)
    settings = {"rule": rule, "tau": tau, "per_round": per_round}
    settings |= {"temperature": temperature, "kd_weight": kd_weight}
    most = number_to_prune(gated, ratio, n_prune, **settings)
    rounds: list[Round] = []
    while len(gated.pruned) < most:
        number, left = len(rounds) + 1, most - len(gated.pruned)
        file = file_in(out, f"2-round-{number:02}.safetensors")
        options = {"candidates": list(gated.candidates), "left": left, **settings}
        votes = _votes_in(file, options)
        if votes is None:
            named = {"q": left, "tau": tau, "seed": zlib.crc32(f"{seed}/{number}".encode())}
            votes = collect_votes(gated, data[0], rule, **named)
        removed = votes.to_go(min(per_round, left))
        if not removed:
            break
        objective = distillation(copy.deepcopy(gated), temperature, kd_weight)
        for block in removed:
            gated.prune(block)
        history = train_epochs(
            gated,
            data,
            recipe,
            objective,
            seed=seed,
            title=f"round {number}",
            file=file,
            note={"options": options, "votes": votes.as_json()},
            progress=progress,
        )
        rounds.append(Round(removed, votes, history, held_accuracy(gated, held_out)))
        _write_votes(out, rounds)
    return rounds


def number_to_prune(
    gated: BlockGated,
    ratio: float | None = None,
    n_prune: int | None = None,
    rule: str = "argmin",
    tau: float = 0.5,
    per_round: int = 1,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
) -> int:
    """How many blocks these settings of :func:`vote_and_prune` prune in all.

    Raises
    ------
    ValueError
        If one of them is out of range.
    """
    check_choice("rule", rule, RULES)
    check_distillation(temperature, kd_weight)
    check_count(per_round=per_round)
    may = most_prunable(gated)
    if ratio is None and n_prune is None and rule == "threshold":
        return may
    if (ratio is None) == (n_prune is None):
        raise ValueError(f"give ratio or n_prune, got ratio={ratio} and n_prune={n_prune}")
    if ratio is not None:
        return block_budget(gated, ratio)
    number = as_integer(n_prune)
    if number is None or not 0 <= number <= may:
        why = frozen_blocks(gated)
        raise ValueError(
            f"n_prune must be an integer in 0..{may} (blocks that may be pruned), got "
            f"{n_prune!r}{why}"
        )
    return number


def held_accuracy(network: nn.Module, held_out: Data | None) -> float | None:
    """Accuracy on the held-out images, if there are any."""
    return None if held_out is None else image_accuracy(network, held_out)


def file_in(out: Out, name: str) -> Path | None:
    """A file of the run's folder, if it has one."""
    return None if out is None else Path(out).expanduser() / name


def _votes_in(file: Path | None, options: dict[str, Any]) -> Votes | None:
    """The votes of a round that was begun, if it is a round of this run."""
    if file is None or not file.exists():
        return None
    note = read_tensors(file, "file of training")[1]["run"]["note"]
    check_same_run(file, {"options": note["options"]}, {"options": options})
    return Votes.from_json(note["votes"])


def _write_votes(out: Out, rounds: list[Round]) -> None:
    """The histogram of every round so far, for people and plots."""
    if (path := file_in(out, "votes.json")) is not None:
        rows = [{"removed": r.removed, "accuracy": r.accuracy, **r.votes.as_json()} for r in rounds]
        remove_partial(path)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(rows, indent=1))
