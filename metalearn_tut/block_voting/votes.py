"""Images vote for the block that they need least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.block_voting.images import Images, batches
from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.checks import as_integer, check_choice, check_count, check_seed
from metalearn_tut.models.mode import evaluating

RULES = ("argmin", "bottom_q", "threshold", "mean", "random")


@dataclass(frozen=True)
class Votes:
    """A vote: who stood, how many ballots named whom, and the marks behind it.

    Parameters
    ----------
    candidates : tuple of int
        Block numbers.
    counts : tuple of int
        Ballots that name each candidate.
    mean_marks : tuple of float
        Each candidate's mark, averaged over the ballots.
    ballots : int
        Ballots cast. With the rule ``"argmin"`` the counts sum to it.
    rule : str
        What a ballot named.
    """

    candidates: tuple[int, ...]
    counts: tuple[int, ...]
    mean_marks: tuple[float, ...]
    ballots: int
    rule: str = "argmin"

    def __post_init__(self) -> None:
        lengths = [len(self.candidates), len(self.counts), len(self.mean_marks)]
        if len(set(lengths)) > 1:
            raise ValueError(
                "candidates, counts and mean_marks must be of one length, got {}, {} and {}".format(
                    *lengths
                )
            )

    def ranking(self) -> tuple[int, ...]:
        """The candidates, the one to go first at the front.

        Most votes first; of equally many the lower mean mark, then the deeper block.

        Examples
        --------
        >>> Votes((1, 2, 4), (3, 3, 5), (0.7, 0.6, 0.9), 11).ranking()
        (4, 2, 1)
        """
        rows = zip(self.counts, self.mean_marks, self.candidates, strict=True)
        order = sorted((-count, mark, -block) for count, mark, block in rows)
        return tuple(-block for _, _, block in order)

    def to_go(self, n: int) -> tuple[int, ...]:
        """The first ``n`` of the ranking; by ``"threshold"`` those named by most ballots only.

        Examples
        --------
        >>> Votes((1, 2), (6, 5), (0.4, 0.5), 10, "threshold").to_go(2)
        (1,)
        """
        first = self.ranking()[:n]
        if self.rule != "threshold":
            return first
        counts = dict(zip(self.candidates, self.counts, strict=True))
        return tuple(block for block in first if 2 * counts[block] > self.ballots)

    def as_json(self) -> dict[str, Any]:
        """For files: the same, as a dictionary."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Votes:
        """What :meth:`as_json` gave, read again."""
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()})


def count_votes(
    marks: Tensor, rule: str = "argmin", *, q: int = 1, tau: float = 0.5, seed: int = 0
) -> Tensor:
    """Votes for each block by the marks of each image.

    ``votes[l] = sum_x 1[l = argmin_k g_k(x)]`` by the rule ``"argmin"``. Only the order of an
    image's marks counts, so neither a few extreme marks nor an image's own scale decide.

    Parameters
    ----------
    marks : Tensor [M, C]
        Marks of the C candidates by M images.
    rule : {"argmin", "bottom_q", "threshold", "mean", "random"}
        What a ballot names: the block with the lowest mark; the ``q`` lowest; every block with
        a mark below ``tau``; none (the mean marks decide: an ablation); one at random (another).
        Of equal marks, that of the deeper block counts as lower.
    q : int, default 1
        For ``"bottom_q"``, in 1..C.
    tau : float, default 0.5
        For ``"threshold"``.
    seed : int, default 0
        For ``"random"``.

    Returns
    -------
    Tensor [C]
        ``int64``.

    Raises
    ------
    ValueError
        If there is no image or no candidate, a mark is NaN, or ``rule`` or ``q`` is out of range.

    Notes
    -----
    That ABP prunes by votes of the training samples is in its abstract; how they vote is our
    reconstruction.

    Examples
    --------
    >>> marks = torch.tensor([[0.5, 0.4], [0.5, 0.4], [0.0, 0.9]])
    >>> count_votes(marks).tolist()  # two of three want to lose the second block
    [1, 2]
    >>> marks.mean(0).tolist()  # its mean mark is higher all the same # doctest: +ELLIPSIS
    [0.33..., 0.56...]
    """
    check_choice("rule", rule, RULES)
    if marks.ndim != 2 or 0 in marks.shape:
        raise ValueError(
            "marks must be [M, C] with at least one image and one candidate, "
            f"got shape {list(marks.shape)}"
        )
    if bool(marks.isnan().any()):
        raise ValueError("marks must not be NaN")
    if math.isnan(tau):
        raise ValueError("tau must not be NaN")
    seed = check_seed(seed)
    images, blocks = marks.shape
    if rule == "mean":
        return torch.zeros(blocks, dtype=torch.int64)
    if rule == "threshold":
        return (marks < tau).sum(0).cpu()
    if rule == "random":
        generator = torch.Generator().manual_seed(seed)
        named = torch.randint(blocks, (images,), generator=generator)
    else:
        named = lowest(marks, 1 if rule == "argmin" else q).flatten()
    return torch.bincount(named.cpu(), minlength=blocks)


def lowest(marks: Tensor, q: int) -> Tensor:
    """The ``q`` lowest of each image's ``marks [M, C]``: columns ``[M, q]``, the lowest first."""
    blocks = marks.shape[1]
    number = as_integer(q)
    if number is None or not 1 <= number <= blocks:
        raise ValueError(f"q must be an integer in 1..{blocks} (candidates), got {q!r}")
    from_behind = marks.flip(1).sort(dim=1, stable=True).indices  # the deeper first, if equal
    return blocks - 1 - from_behind[:, :number]


def collect_marks(gated: BlockGated, images: Images) -> Tensor:
    """Soft marks ``[M, N]`` of images, in evaluation mode and without augmentation.

    Parameters
    ----------
    gated : BlockGated
        Left as it was.
    images : array or tensor [M, 3, H, W]
        ``uint8`` or floats.

    Raises
    ------
    ValueError
        If there is no image.
    """
    _check_gated(gated)
    if not len(images):
        raise ValueError("the voting set is empty: no image can vote")
    with evaluating(gated):
        return torch.cat([gated.marks(x).cpu() for x in batches(gated, images)])


def collect_votes(
    gated: BlockGated,
    images: Images,
    rule: str = "argmin",
    *,
    q: int = 1,
    tau: float = 0.5,
    per_ballot: int = 1,
    seed: int = 0,
) -> Votes:
    """Let images vote on the blocks that may be pruned.

    Parameters
    ----------
    gated : BlockGated
        Left as it was. Its soft marks are read, whatever its masks are: 0/1 marks would be
        decided by ties.
    images : array or tensor [M, 3, H, W]
        The voting set.
    rule, q, tau, seed
        See :func:`count_votes`.
    per_ballot : int, default 1
        So many images in a row cast one ballot together, by their mean marks.

    Raises
    ------
    ValueError
        If there is no image, no candidate is left, or an argument is out of range.
    """
    (per_ballot,) = check_count(per_ballot=per_ballot)
    marks = collect_marks(gated, images)
    if not gated.candidates:
        raise ValueError("no block is left to vote on")
    columns = [gated.numbers.index(block) for block in gated.candidates]
    marks = marks[:, columns].double()
    if per_ballot > 1:
        marks = torch.stack([group.mean(0) for group in marks.split(per_ballot)])
    return votes_of(marks, gated.candidates, rule, q=q, tau=tau, seed=seed)


def votes_of(marks: Tensor, candidates: Sequence[int], rule: str, **settings: Any) -> Votes:
    """A vote by ``marks [M, C]`` of these candidates; settings as for :func:`count_votes`."""
    counts = count_votes(marks, rule, **settings).tolist()
    means = marks.mean(0).tolist()
    return Votes(tuple(candidates), tuple(counts), tuple(means), len(marks), rule)


def _check_gated(gated: nn.Module) -> None:
    if not isinstance(gated, BlockGated):
        raise TypeError(f"images vote on a BlockGated, got {type(gated).__name__}")
