"""A federated run in a folder: exact resume, and a learner that is found like any other's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_tut.federated import Federation, Reply, in_process, run_rounds
from metalearn_tut.federated.aggregation import State
from metalearn_tut.federated.outcome import FederationFailed, Record, unanswered
from metalearn_tut.federated.rounds import SERVER, Ask
from metalearn_tut.files.cache import atomic_write
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.files.tensor_file import check_same_run, read_tensors
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
    folder, run = Path(out).expanduser(), {"config": json.loads(json.dumps(config))}
    server = folder / SERVER
    _check_folder(folder, run, resume)
    checkpoint.make_ready(folder)
    reach = ask or in_process(federation)
    bar = progress_bar(
        federation.rounds,
        initial=_rounds_in(server),
        unit="round",
        desc="federate",
        show=progress,
    )

    def asked(chosen: Sequence[int], state: State, number: int) -> Mapping[int, Any]:
        replies = reach(chosen, state, number)
        bar.set_postfix(_said(replies), refresh=False)
        return replies

    def kept(number: int) -> dict[str, Any]:
        done = number + 1
        if done % save_every == 0 or done == federation.rounds:
            # before the server's: a run that is killed between them does the round once more
            checkpoint.save(folder / LAST, federation.learner, step=done, run=run)
        bar.update(1)
        return {}

    rest = {"out": folder, "resume": resume, "save_every": save_every, "watch": kept}
    try:
        with bar:
            records = run_rounds(federation, asked, **rest)
    except FederationFailed:
        (folder / LAST).unlink(missing_ok=True)  # nobody trained it
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"training was stopped; {_left(server)}") from None
    with atomic_write(folder / HISTORY) as temporary:
        temporary.write_text(json.dumps(records))
    return records


def _check_folder(folder: Path, run: Mapping[str, Any], resume: bool) -> None:
    """Refuse to write over a run, and to go on with another one."""
    if not resume and any((folder / name).exists() for name in (BEST, LAST, SERVER)):
        raise checkpoint.holds_a_run(folder)
    for path in (folder / BEST, folder / LAST):
        if path.exists():
            check_same_run(path, checkpoint.read(path)[1]["run"], run)


def _rounds_in(server: Path) -> int:
    """How many rounds a resumed run would not do again."""
    records = read_tensors(server)[1].get("records", []) if server.exists() else []
    return len(records) - unanswered(records)


def _left(server: Path) -> str:
    if not server.exists():
        return "no checkpoint was saved"
    return f"resume=True (--resume) goes on from {server} (round {_rounds_in(server)})"


def _said(replies: Mapping[int, Any]) -> dict[str, str]:
    """The means of what came back, for the bar."""
    heard = [reply for reply in replies.values() if isinstance(reply, Reply)]
    series = {
        "loss": [reply.loss for reply in heard],
        "accuracy": [reply.accuracy for reply in heard if reply.accuracy is not None],
    }
    return {name: f"{sum(of) / len(of):.3f}" for name, of in series.items() if of}
