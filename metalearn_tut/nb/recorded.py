"""What a study left on record, for a chapter that cannot run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
