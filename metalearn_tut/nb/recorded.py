"""What a study left on record, for a chapter that cannot run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


ORDERS = Path(__file__).with_name("orders.json")


def orders() -> dict[str, Any]:
    """MAML, first-order MAML and ANIL on emoji: ``tools/orders_study.py``.

    Returns
    -------
    dict
        ``accuracy`` of each method and training seed; ``differences`` to MAML, by seed and with
        the half-width of their interval over tasks. Both are empty before the study has ended.

    Examples
    --------
    >>> sorted(orders())
    ['accuracy', 'differences']
    """
    if not ORDERS.is_file():
        return {"accuracy": {}, "differences": {}}
    return json.loads(ORDERS.read_text("utf-8"))


STUDIES = Path(__file__).with_name("studies.json")


def study(name: str) -> dict[str, Any]:
    """A study of what a paper claims, from a copy of its findings in the package.

    Returns
    -------
    dict
        ``done`` and ``total``, its jobs; ``rows``, its claims and what is reported beside them:
        ``arm``, ``rival``, ``split``, ``verdict`` (None of what is no claim, or still runs),
        ``bounds`` (where a claim's margin lies, if it has one) and, once its jobs have ended, the
        differences ``seeds`` of the trainings and ``over_tasks``, the half-width of their
        interval over tasks. The study ``compact`` also has a ``table``: accuracy and costs of
        every arm, empty before the last job has ended.

    Raises
    ------
    KeyError
        If there is no such study.

    Examples
    --------
    >>> sorted(study("hetrom"))
    ['done', 'rows', 'total']
    """
    return json.loads(STUDIES.read_text("utf-8"))[name]
