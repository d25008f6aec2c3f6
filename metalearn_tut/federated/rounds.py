"""The server: rounds that go on whatever clients do, and after it has been killed itself."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch

from metalearn_tut.bilevel import Params
from metalearn_tut.checks import check_count
from metalearn_tut.federated.aggregation import (
    Reply,
    State,
    bytes_of,
    load_state,
    plain,
    problem_of,
    state_of,
    weighted_average,
)
from metalearn_tut.federated.federation import Federation
from metalearn_tut.federated.outcome import Record, check_answered, unanswered
from metalearn_tut.files.content import as_json
from metalearn_tut.files.progress import progress_bar
from metalearn_tut.files.resume import Resume
from metalearn_tut.files.tensor_file import copy_tensors
from metalearn_tut.machine import keep_memory
from metalearn_tut.machine.threads import each, in_threads, workers_of

Ask = Callable[[Sequence[int], State, int], Mapping[int, Any]]
"""(clients, the server's state, round) -> what came back of each: a Reply, or what went wrong."""
SERVER = "server.safetensors"
_KIND = "server's checkpoint"
log = logging.getLogger(__name__)


def run_rounds(
    federation: Federation,
    ask: Ask | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 1,
    watch: Callable[[int], Mapping[str, Any] | None] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> list[Record]:
    """Train the federation's learner in place, round by round.

    A client that fails, is late, or sends back something else than finite tensors of the right
    names and shapes with a positive number of images, is left out of the average, the log names
    it, and the round goes on. If nobody is left, the model stays as it was. If that is so in all
    rounds, the run has failed; if in the last ones, the log says so, and the model is that of
    the last round that was answered.

    Parameters
    ----------
    federation : Federation
    ask : callable, optional
        How clients are reached; by default :func:`in_process`.
    out : path, optional
        Folder of the checkpoint ``server.safetensors``, written after every ``save_every``
        rounds and the last.
    resume : bool, default False
        Go on from the checkpoint if there is one: the result is bitwise that of a run without
        the interruption. Rounds at its end that nobody answered are done again.
    save_every : int, default 1
    watch : callable, optional
        Called with the number of each round when it is done and the learner is at the server's
        state; the mapping that it returns (numbers, of any library) joins the round's record.
    workers : int, optional
        Clients at a time in this process, as the tasks of
        :func:`~metalearn_tut.training.meta_train`; each has a copy of the learner.
    progress : bool, default False
        Show a bar with loss and accuracy of the last round.

    Returns
    -------
    list of dict
        For each round: ``round``; ``clients`` that were asked, ``left_out`` (name -> reason);
        ``loss`` and ``accuracy``, averaged as the model is, before the local steps (None if
        nobody answered); ``moved``, the distance that the model moved; ``bytes_down`` and
        ``bytes_up``, sent to and received from the clients.

    Raises
    ------
    FederationFailed
        After the last round, if nobody answered in any: the reasons of the clients with their
        counts. ``resume=True`` tries again.
    ValueError
        If the checkpoint is damaged, or of another run: other settings of federation or learner,
        or nodes with other data; names what differs.
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    OSError
        If it cannot be written.

    Examples
    --------
    >>> from metalearn_tut import tasks
    >>> from metalearn_tut.federated import by_classes, per_fed_avg
    >>> source = tasks.from_arrays(torch.randn(120, 4), torch.arange(120) % 6)
    >>> nodes = by_classes(source, nodes=5, classes_per_node=2).train
    >>> learner = per_fed_avg(torch.nn.Linear(4, 6))
    >>> federation = Federation(learner, nodes, rounds=3, support=4, query=6, fraction=0.5)
    >>> records = run_rounds(federation)
    >>> records[0]["clients"], records[0]["left_out"], records[0]["bytes_up"]
    (['node 1', 'node 4'], {}, 240)
    """
    keep_memory()
    (save_every,) = check_count(save_every=save_every)
    ask = in_process(federation) if ask is None else ask
    file, run = (None, {}) if out is None else (Path(out) / SERVER, federation.describe())
    server = Resume(file, run, kind=_KIND, unit="round")
    state, records = state_of(federation.learner), []
    if kept := server.begin(resume):
        copy_tensors(server.file, kept.tensors, state, _KIND)
        records = kept.state["records"][: server.step]
    shown = {"initial": len(records), "unit": "round", "desc": "federate", "show": progress}
    own = workers_of(federation.learner, workers, len(federation.clients(0)))
    with progress_bar(federation.rounds, **shown) as bar, own, server.explained():
        for number in range(len(records), federation.rounds):
            chosen = federation.clients(number)
            replies = ask(chosen, state, number)
            state, record = _server_step(federation, chosen, replies, state, number)
            load_state(federation.learner, state)
            watched = {} if watch is None else as_json(watch(number) or {})
            records.append({**record, **watched})
            done = number + 1
            if done % save_every == 0 or done == federation.rounds:
                # rounds at the end that nobody answered are done again
                server.keep(done - unanswered(records), state, {"records": records})
            bar.set_postfix(_told(record), refresh=False)
            bar.update()
    load_state(federation.learner, state)
    check_answered(records)
    return records


def _told(record: Record) -> dict[str, str]:
    """A round's means, for the bar."""
    means = {name: record[name] for name in ("loss", "accuracy")}
    return {name: f"{mean:.3f}" for name, mean in means.items() if mean is not None}


def _server_step(
    federation: Federation,
    chosen: Sequence[int],
    replies: Mapping[int, Any],
    state: Params,
    number: int,
) -> tuple[Params, Record]:
    """The average of what is fit to be averaged, and what is to be remembered of the round."""
    good: list[Reply] = []
    left_out, received = {}, 0
    for client in chosen:
        reply, name = replies.get(client, "no answer"), federation.nodes[client].name
        reason = problem_of(reply, state)
        if reason is None:
            good.append(plain(reply))
            received += bytes_of(reply.state)
        else:
            left_out[name] = reason
            log.warning("round %d goes on without %s: %s", number, name, reason)
    if not good:
        log.warning("round %d changes nothing: nobody answered", number)
    weights = [federation.weight(reply) for reply in good]
    new = weighted_average([reply.state for reply in good], weights, state)
    accuracies = [reply.accuracy for reply in good]
    return new, {
        "round": number,
        "clients": [federation.nodes[client].name for client in chosen],
        "left_out": left_out,
        "loss": _mean([reply.loss for reply in good], weights),
        "accuracy": None if None in accuracies else _mean(accuracies, weights),
        "moved": _distance(new, state),
        "bytes_down": len(chosen) * bytes_of(state),
        "bytes_up": received,
    }


def _mean(values: Sequence[float], weights: Sequence[float]) -> float | None:
    if not values:
        return None
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def _distance(a: State, b: State) -> float:
    moved = [(a[n] - b[n]).double().square().sum() for n in a if a[n].is_floating_point()]
    return torch.stack(moved).sum().sqrt().item()


def in_process(
    federation: Federation,
    train: Callable[[int, State, int], Reply] | None = None,
    *,
    timeout: float | None = None,
) -> Ask:
    """Clients in this process, as many at a time as :func:`run_rounds` was told.

    Those of ``train``, or with a ``timeout``, go one after another.

    Parameters
    ----------
    federation : Federation
    train : callable, optional
        (client, state, round) -> Reply, ``federation.train`` by default.
    timeout : float, optional
        Seconds that a client may take. A thread cannot be stopped: a late client goes on, on a
        copy of the learner, and its reply is thrown away; random numbers that it draws
        meanwhile are those of nobody else only if it has a generator of its own.

    Raises
    ------
    ValueError
        If ``timeout`` is not a positive and finite number.
    """
    if timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be positive and finite, got {timeout}")

    def one(client: int, state: State, number: int) -> Any:
        act = federation.train if train is None else train
        if train is None and (timeout is not None or in_threads()):
            act = _with_own_learner(federation).train
        try:
            return act(client, {n: t.clone() for n, t in state.items()}, number)
        except Exception as error:  # whatever a client does wrong, the round goes on
            return error

    def ask(chosen: Sequence[int], state: State, number: int) -> dict[int, Any]:
        if timeout is None:
            several = map if train is not None else each
            replies = several(lambda client: one(client, state, number), chosen)
            return dict(zip(chosen, replies, strict=True))
        return {c: _in_time(lambda c=c: one(c, state, number), timeout) for c in chosen}

    return ask


def _with_own_learner(federation: Federation) -> Federation:
    own = copy(federation)
    object.__setattr__(own, "learner", deepcopy(federation.learner))
    return own


def _in_time(call: Callable[[], Any], timeout: float) -> Any:
    """The result of a call, or a sentence if it takes too long."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(call()), daemon=True)
    thread.start()
    thread.join(timeout)
    return result[0] if result else f"no answer within {timeout:g} s"
