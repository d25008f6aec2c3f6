"""How a federated run has ended: who did not answer, why, and whether that is failure."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]
log = logging.getLogger(__name__)


class FederationFailed(RuntimeError):
    """No round had a reply that could be averaged: says why, and has the ``records``."""

    def __init__(self, message: str, records: Sequence[Record]) -> None:
        super().__init__(message)
        self.records = list(records)


def unanswered(records: Sequence[Record]) -> int:
    """How many rounds at the end had no reply that could be averaged."""
    return next((i for i, r in enumerate(reversed(records)) if r["loss"] is not None), len(records))


def reasons(records: Sequence[Record], most: int = 3) -> str:
    """Why clients were left out, the most frequent reason first, with counts.

    Reasons that differ in numbers alone are one.

    Examples
    --------
    >>> reasons([{"left_out": {"node 0": "error 5", "node 1": "late", "node 2": "error 6"}}])
    "2 times 'error 5', once 'late'"
    """
    told = [reason for record in records for reason in record["left_out"].values()]
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for reason in told:
        kind = re.sub(r"\d+", "0", reason)
        counts[kind] += 1
        example.setdefault(kind, reason)
    said = [
        f"{'once' if n == 1 else f'{n} times'} {example[kind]!r}"
        for kind, n in counts.most_common(most)
    ]
    more = len(counts) - len(said)
    return ", ".join(said) + (f" and {more} other reasons" if more else "")


def check_answered(records: Sequence[Record]) -> None:
    """Refuse to call a run in which nobody answered a success; log a bad end.

    Whether a run has failed depends on its rounds alone, and not on where it was interrupted.

    Raises
    ------
    FederationFailed
        If no round was answered.
    """
    missing, n = unanswered(records), len(records)
    if missing == n:
        rounds = "the only round" if n == 1 else f"any of the {n} rounds"
        raise FederationFailed(
            f"nobody answered in {rounds}, so that nothing was learned: {reasons(records)}", records
        )
    if missing:
        log.warning(
            *("nobody answered in the last %d of %d rounds, which changed nothing: %s", missing, n),
            reasons(records[-missing:]),
        )
