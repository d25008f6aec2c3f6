"""What a study is: claims with their criteria, and the jobs that decide them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Config = Values = dict[str, Any]


class Undecided(Exception):
    """A claim cannot be decided, because a job it rests on has no result."""


class Results(dict[str, Values]):
    """The values of each job that has ended, by the job's name.

    To ask for a job that failed, or only whether it is there, is to leave a claim undecided: a
    study may have fewer arms or seeds than another, but not because some of its jobs failed.

    Parameters
    ----------
    values : mapping of str to dict
        Of the jobs that have ended well.
    failed : mapping of str to str, optional
        Why each other job has no values.

    Raises
    ------
    Undecided
        By ``results[name]`` without a result, and by ``name in results`` of a failed job.

    Examples
    --------
    >>> results = Results({"a-0": {}}, failed={"a-1": "RuntimeError: out of memory"})
    >>> "a-0" in results, "a-2" in results
    (True, False)
    >>> "a-1" in results
    Traceback (most recent call last):
    ...
    metalearn_tut.claims.study.Undecided: not decided: job a-1 failed: RuntimeError: out of memory
    """

    def __init__(
        self, values: Mapping[str, Values] | None = None, failed: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(values or {})
        self.failed = dict(failed or {})

    def __missing__(self, name: str) -> Values:
        raise self._undecided(name)

    def __contains__(self, name: object) -> bool:
        if name in self.failed:
            raise self._undecided(str(name))
        return super().__contains__(name)

    def _undecided(self, name: str) -> Undecided:
        why = f"failed: {self.failed[name]}" if name in self.failed else "has no result"
        return Undecided(f"not decided: job {name} {why}")


@dataclass(frozen=True)
class Verdict:
    """What a criterion says of the results.

    Parameters
    ----------
    holds : bool or None
        Whether the claim holds; None if it was not decided.
    sentence : str
        The numbers, in words.
    values : dict
        The numbers, as JSON.
    """

    holds: bool | None
    sentence: str
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """Something a paper promises, and what would show it.

    Parameters
    ----------
    number : int
        Its place in the study.
    text : str
        The claim, in our words.
    source : str
        Where it comes from, with its evidence tag.
    criterion : str
        When it holds: written before the run, and kept with the result.
    decide : callable
        :class:`Results` -> :class:`Verdict`.
    follows : int, optional
        In a second study: the number of the first one's claim that is taken up again.
    """

    number: int
    text: str
    source: str
    criterion: str
    decide: Callable[[Results], Verdict]
    follows: int | None = None

    def verdict(self, results: Results) -> Verdict:
        """The verdict; undecided if a job that it needs has no result."""
        try:
            return self.decide(results)
        except Undecided as reason:
            return Verdict(None, str(reason))


@dataclass(frozen=True)
class Job:
    """One piece of a study's work, done in a process of its own.

    Parameters
    ----------
    name : str
        Names its files: letters, digits, ``.``, ``_`` and ``-``.
    config : dict
        JSON that decides everything about the result, seeds included.
    run : callable
        A function at the top of a module: ``(config, folder) -> values`` as JSON. A long
        one keeps its checkpoints in ``folder`` and goes on from them.

    Examples
    --------
    >>> Job("mean-0", {"seed": 0}, print).key
    'mean-0-0bcad144'
    """

    name: str
    config: dict[str, Any]
    run: Callable[[dict[str, Any], Path], Values]

    @property
    def key(self) -> str:
        """The name, and a checksum of the configuration: another one has other files."""
        return f"{self.name}-{zlib.crc32(json.dumps(self.config, sort_keys=True).encode()):08x}"


@dataclass(frozen=True)
class Study:
    """The claims of one paper and the work that decides them.

    Parameters
    ----------
    name : str
        What ``metalearn-tut reproduce`` calls it.
    paper : str
        Authors, title, year.
    claims : tuple of Claim
        What is decided.
    jobs : callable
        ``jobs(quick) -> list of Job``; with ``quick`` the same jobs, or some of them, in
        minutes: their verdicts show the direction and decide nothing.
    """

    name: str
    paper: str
    claims: tuple[Claim, ...]
    jobs: Callable[[bool], list[Job]]
