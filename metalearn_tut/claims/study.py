"""What a study is: claims, the trainings that decide them, and what came out."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from metalearn_tut.claims import statistics
from metalearn_tut.claims.statistics import Effect, accuracies, check_margin, paired

Config = Values = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training of one seed, tested on tasks of its own, in a process of its own.

    Parameters
    ----------
    name : str
        ``ARM-SEED``; names its files: letters, digits, ``.``, ``_`` and ``-``.
    config : dict
        JSON that decides everything about the result, seeds included.
    run : callable
        A function at the top of a module: ``(config, folder) -> values`` as JSON, right answers
        as :func:`~metalearn_tut.claims.statistics.right_answers` by the name of a split. A long
        one keeps its checkpoints in ``folder`` and goes on from them.

    Examples
    --------
    >>> Job("mean-0", {"seed": 0}, print).key
    'mean-0-0bcad144'
    """

    name: str
    config: Config
    run: Callable[[Config, Path], Values]

    @property
    def key(self) -> str:
        """The name, and a checksum of the configuration: another one has other files."""
        return f"{self.name}-{zlib.crc32(json.dumps(self.config, sort_keys=True).encode()):08x}"


@dataclass(frozen=True)
class Comparison:
    """Two arms of a study, on the same test tasks.

    Parameters
    ----------
    text : str
        What is compared, in our words.
    arm, rival : str
        ``ARM`` of the jobs ``ARM-SEED``; what counts is arm - rival.
    split : str, default "test"
        Which of the arm's answers.
    rival_split : str, optional
        Which of the rival's, if they have another name.
    """

    text: str
    arm: str
    rival: str
    split: str = "test"
    rival_split: str | None = None

    def effect(self, values: Mapping[str, Values], seeds: tuple[int, ...]) -> Effect | None:
        """From the jobs' values by name; None if one of them is missing."""
        jobs = [(f"{self.arm}-{s}", f"{self.rival}-{s}") for s in seeds]
        if any(name not in values for pair in jobs for name in pair):
            return None
        theirs = self.rival_split or self.split
        return paired(
            [(accuracies(values[a][self.split]), accuracies(values[b][theirs])) for a, b in jobs]
        )


@dataclass(frozen=True)
class Claim(Comparison):
    """Something that a paper promises. What decides it follows from its parts.

    Parameters
    ----------
    text, arm, rival, split, rival_split
        As of a :class:`Comparison`; the text is the promise.
    source : str
        Where it comes from, with its evidence tag.
    ours : str
        What in the method is our reconstruction: a claim that fails refutes that.
    kind : {"superior", "non-inferior", "equivalent"}
    margin : float, default 0
        In shares of accuracy: 0.01 is a point.
    most_macs : float, default 1
        The most that the arm's answers may cost, as a share of the whole network's multiply-adds
        (``macs`` in the values of its jobs); if they cost more, the claim does not hold.

    Raises
    ------
    ValueError
        For an unknown kind, or a margin that makes no sense of it.

    Examples
    --------
    >>> claim = Claim("Nothing is lost.", "pruned", "dense", kind="non-inferior", margin=0.01)
    >>> print(claim.criterion((0, 1, 2, 3, 4)))
    pruned - dense, 5 trainings: holds if the 95 % interval over trainings lies above -0.01, does \
not hold if it lies below -0.01, and else is not decided.
    """

    source: str = ""
    ours: str = ""
    kind: str = "superior"
    margin: float = 0.0
    most_macs: float = 1.0

    def __post_init__(self) -> None:
        check_margin(self.kind, self.margin)

    def criterion(self, seeds: tuple[int, ...]) -> str:
        """When it holds, in words."""
        m = f"{self.margin:g}"
        holds, fails = {
            "superior": (f"lies above {m}", f"lies below {m}"),
            "non-inferior": (f"lies above -{m}", f"lies below -{m}"),
            "equivalent": (f"lies between -{m} and {m}", "lies outside of both"),
        }[self.kind]
        where = "" if self.split == "test" else f" ({self.split})"
        if self.most_macs < 1:
            holds += f" and {self.arm} takes at most {self.most_macs:g} of the multiply-adds"
            fails += " or it takes more"
        return (
            f"{self.arm} - {self.rival}{where}, {len(seeds)} trainings: holds if the 95 % interval "
            f"over trainings {holds}, does not hold if it {fails}, and else is not decided."
        )

    def macs(self, values: Mapping[str, Values], seeds: tuple[int, ...]) -> float | None:
        """What the arm's answers cost, if that decides: the mean over the seeds."""
        if self.most_macs == 1:
            return None
        return fmean(values[f"{self.arm}-{seed}"]["macs"] for seed in seeds)

    def verdict(self, effect: Effect | None, macs: float | None = None) -> str:
        """What the effect, and perhaps the cost, say; without an effect it is not decided."""
        if effect is None:
            return statistics.OPEN
        if macs is not None and macs > self.most_macs:
            return statistics.FAILS
        return statistics.verdict(effect, self.kind, self.margin)


@dataclass(frozen=True)
class Study:
    """The claims of one paper on one family of data, and the work that decides them.

    Parameters
    ----------
    name : str
        What ``metalearn-tut reproduce`` calls it.
    paper : str
        Authors, title, year.
    data : str
        What the tasks are, in words.
    seeds : tuple of int
        Of the trainings that decide.
    claims : tuple of Claim
        What is decided.
    jobs : callable
        ``jobs(quick) -> list of Job``; with ``quick`` the same jobs, or some of them, in at most
        two minutes: they show that all runs, and decide nothing.
    hours : float
        What we expected it to cost before it began, in hours of one core.
    pilot : str
        What was chosen beforehand on validation tasks, with seeds of its own, and how.
    pilots : callable, optional
        The jobs that this was chosen by.
    reported : tuple of Comparison
        Beside the claims: numbers without a verdict.
    reported_seeds : tuple of int, optional
        Of these, if fewer.
    """

    name: str
    paper: str
    data: str
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]
    jobs: Callable[[bool], list[Job]]
    hours: float
    pilot: str
    pilots: Callable[[], list[Job]] = list
    reported: tuple[Comparison, ...] = ()
    reported_seeds: tuple[int, ...] | None = None

    def seeds_of(self, comparison: Comparison) -> tuple[int, ...]:
        """Which trainings a comparison is made over."""
        return self.seeds if isinstance(comparison, Claim) else self.reported_seeds or self.seeds
