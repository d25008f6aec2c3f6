"""A federated run in a folder: exact resume, and a learner that is found like any other's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalearn_tut.checks import check_count
from metalearn_tut.federated.federation import Federation
from metalearn_tut.federated.outcome import FederationFailed, Record
from metalearn_tut.federated.rounds import SERVER, Ask, run_rounds
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.files.resume import Resume
from metalearn_tut.training import checkpoint
from metalearn_tut.training.checkpoint import BEST, HISTORY, LAST


def federated_train(
    federation: Federation,
    out: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    ask: Ask | None = None,
    resume: bool = False,
    save_every: int = 1,
    workers: int | None = None,
    progress: bool = True,
) -> list[Record]:
    """Train a federation's learner, and keep it in a run's folder.

    Parameters
    ----------
    federation : Federation
        Its learner is trained in place.
    out : path
        The folder. ``server.safetensors`` is what the server goes on from,
        ``last.safetensors`` the learner, for :func:`metalearn_tut.runs.load_learner`; both are
        written every ``save_every`` rounds and at the end, when ``history.json``, the records
        of all rounds, joins them.
    config : mapping
        What the federation was built from, as JSON: a resumed run must bring the same.
    ask : callable, optional
        How clients are reached, as for :func:`~metalearn_tut.federated.run_rounds`.
    resume : bool, default False
        Go on from the last checkpoint if there is one. On the same machine the result is
        bitwise that of a run without the interruption, wherever and however it was stopped.
    save_every : int, default 1
    workers : int, optional
        Clients at a time, as for :func:`~metalearn_tut.federated.run_rounds`.
    progress : bool, default True
        Show a bar with what the last round's clients said.

    Returns
    -------
    list of dict
        The records of :func:`~metalearn_tut.federated.run_rounds`.

    Raises
    ------
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    ValueError
        If it holds another run, or a damaged one.
    FederationFailed
        If nobody answered in any round: the folder then holds no learner, and ``resume=True``
        tries again.
    OSError
        If it cannot be written to.
    """
    (save_every,) = check_count(save_every=save_every)
    folder, run = Path(out).expanduser(), {"config": config}
    for name in (BEST, LAST):
        learner = Resume(folder / name, run, unit="round", beside=(BEST, LAST, HISTORY, SERVER))
        learner.begin(resume)

    def kept(number: int) -> None:
        done = number + 1
        if done % save_every == 0 or done == federation.rounds:
            # before the server's: a run that is killed between them does the round once more
            learner.keep(done, *checkpoint.contents(federation.learner))

    rest = {"out": folder, "resume": True, "save_every": save_every, "progress": progress}
    rest["workers"] = workers
    try:
        records = run_rounds(federation, ask, watch=kept, **rest)
    except FederationFailed:
        (folder / LAST).unlink(missing_ok=True)  # nobody trained it
        raise
    with atomic_write(folder / HISTORY) as temporary:
        temporary.write_text(json.dumps(records))
    return records
