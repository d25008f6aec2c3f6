"""What a study left on record, for a chapter that cannot run it."""

from __future__ import annotations

import json
from pathlib import Path

Rows = dict[str, dict[str, float]]
FILE = Path(__file__).with_name("side_by_side.json")


def side_by_side() -> Rows:
    """The learners of the study ``compact``, from a copy of its numbers in the package.

    Returns
    -------
    dict
        By name: see :func:`metalearn_tut.claims.compact.claims.rows`. Seconds are those of the
        machine on which the study ran.

    Examples
    --------
    >>> sorted(side_by_side()["maml8"])[:4]
    ['accuracy', 'adapt', 'bytes', 'latency']
    """
    return json.loads(FILE.read_text("utf-8"))
