"""The same rounds on Flower (``flwr``): clients in other processes, or on other machines.

``server_app`` and ``client_app`` are made when they are asked for, so that this module can be
imported without ``flwr``. What they do is in the run's configuration::

    [tool.flwr.app.components]
    serverapp = "metalearn_tut.federated.flower.app:server_app"
    clientapp = "metalearn_tut.federated.flower.app:client_app"

    [tool.flwr.app.config]
    experiment = "my_module:my_federation"   # a function that returns a Federation
    arguments = '{"rounds": 5}'              # its arguments, as JSON
    secure = false                           # true: the server sees sums only (Flower 1.41)
    clip = 8.0                               # then: the largest number of an update
    timeout = 600.0                          # seconds that a round may take
    wait = 60.0                              # seconds to wait for nodes at the start
    out = "/where/the/server/keeps/its/checkpoint"

Every process makes the federation by itself; what travels is the state, and the plan: a node that
made another one (:meth:`~metalearn_tut.federated.Federation.plan`) says so and does not train. A
node is told which client it is by ``--node-config "partition-id=0 num-partitions=8"``.

Across machines, certificates and keys keep others out: see
:mod:`~metalearn_tut.federated.flower.guard`, and there what still leaks.

On one machine there are three ways to run it. As processes that talk over loopback:
:class:`~metalearn_tut.federated.flower.local.LocalFlower`. In Flower's simulation, for which
``pip install "flwr[simulation]"`` adds Ray::

    flwr.simulation.run_simulation(*apps(experiment="my_module:my_federation"), num_supernodes=8)

Or without Flower: :func:`~metalearn_tut.federated.run_rounds` gives the same parameters, and is
the fastest of the three. What ``metalearn-tut federate`` trains is ``experiment =
"metalearn_tut.runs:build_federation"``, with its configuration as ``arguments``.
"""

from __future__ import annotations

import importlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from metalearn_tut.federated.aggregation import Reply, State
from metalearn_tut.federated.federation import Federation
from metalearn_tut.federated.flower.clients import (
    FlowerClients,
    check_plan,
    client_of,
    on_cpu,
    state_in,
)
from metalearn_tut.federated.flower.sums import SecureClients, to_be_masked
from metalearn_tut.federated.rounds import run_rounds

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

__all__ = ["apps", "client_app", "make_federation", "server_app"]  # noqa: F822

Settings = dict[str, Any]
DEFAULTS: Settings = {
    "experiment": "",
    "arguments": "{}",
    "timeout": 600.0,
    "wait": 60.0,
    "out": "",
    "secure": False,
    "clip": 8.0,
}


def __getattr__(name: str) -> Any:
    """``server_app`` and ``client_app``, which Flower looks for."""
    if name not in ("server_app", "client_app"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["server_app"], globals()["client_app"] = apps()
    return globals()[name]


def apps(**config: str | float) -> tuple[ServerApp, ClientApp]:
    """Flower's two halves of a federated run.

    Parameters
    ----------
    **config
        ``experiment``, ``arguments``, ``timeout`` and so on as in a run's configuration, for
        runs that have none: a simulation from Python.

    Returns
    -------
    tuple of ServerApp and ClientApp

    Raises
    ------
    ImportError
        If ``flwr`` is not installed.
    ValueError
        If a setting is unknown.

    Notes
    -----
    The server goes on from a checkpoint in ``out``, if there is one: a killed server is started
    again with the same configuration.
    """
    try:
        from flwr.app import Message, MetricRecord, RecordDict
        from flwr.clientapp import ClientApp
        from flwr.serverapp import ServerApp
    except ImportError as error:
        raise ImportError(
            "Flower is not installed: pip install 'metalearn-tut[federated]'"
        ) from error
    if unknown := sorted(set(config) - set(DEFAULTS)):
        raise ValueError(f"unknown setting {unknown[0]!r}; there are {', '.join(DEFAULTS)}")
    server, client = ServerApp(), ClientApp()

    def settings(context: Context) -> Settings:
        own = {n: v for n, v in context.run_config.items() if n in DEFAULTS}
        return {**DEFAULTS, **config, **own}

    @client.query()
    def who(message: Message, context: Context) -> Message:
        content = RecordDict({"who": MetricRecord({"client": client_of(context)})})
        return Message(content, reply_to=message)

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return _train(settings(context), message, context)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        _serve(settings(context), grid)

    return server, client


def _serve(given: Settings, grid: Grid) -> None:
    """What the server does: all rounds, from its checkpoint if there is one."""
    federation = make_federation(given["experiment"], given["arguments"])
    limits = {name: given[name] for name in ("timeout", "wait")}
    ask = FlowerClients(grid, federation, **limits)
    if given["secure"]:
        ask = SecureClients(grid, federation, clip=given["clip"], **limits)
    run_rounds(federation, ask, out=given["out"] or None, resume=bool(given["out"]))


def _train(given: Settings, message: Message, context: Context) -> Message:
    """What a client does in a round; with ``secure`` behind Flower's mask."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    def masked(message: Message, context: Context) -> Message:
        reply, state, weight = _trained(given, message, context)
        content = to_be_masked(reply, state, weight, message.content["told"])
        return Message(content, reply_to=message)

    if given["secure"]:
        from flwr.client.mod import secaggplus_mod

        return secaggplus_mod(message, context, masked)
    reply, _, _ = _trained(given, message, context)
    told = {"count": reply.count, "loss": reply.loss}
    if reply.accuracy is not None:
        told["accuracy"] = reply.accuracy
    arrays = ArrayRecord(torch_state_dict=on_cpu(reply.state))
    content = RecordDict({"state": arrays, "told": MetricRecord(told)})
    return Message(content, reply_to=message)


def _trained(given: Settings, message: Message, context: Context) -> tuple[Reply, State, float]:
    """A client's reply, the server's state, and what the reply counts in the average."""
    federation = _own_federation(given["experiment"], given["arguments"])
    check_plan(federation, message.content)
    state = state_in(message.content, federation)
    number = int(message.content["told"]["round"])
    reply = federation.train(client_of(context, len(federation.nodes)), state, number)
    return reply, state, federation.weight(reply)


def make_federation(experiment: str, arguments: str = "{}") -> Federation:
    """Call the function that a configuration names.

    Parameters
    ----------
    experiment : str
        ``"package.module:function"``.
    arguments : str, default "{}"
        Its keyword arguments, as JSON.

    Raises
    ------
    ValueError
        If there is no such function, the arguments are no JSON object, or what it returns is
        no :class:`~metalearn_tut.federated.Federation`.

    Examples
    --------
    >>> make_federation("no_such_module:function")
    Traceback (most recent call last):
    ...
    ValueError: experiment must be 'module:function', and importable: got 'no_such_module:function'
    """
    module, _, name = experiment.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"experiment must be 'module:function', and importable: got {experiment!r}"
        ) from error
    try:
        given = dict(json.loads(arguments))
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments must be a JSON object, got {arguments!r}") from error
    federation = function(**given)
    if not isinstance(federation, Federation):
        raise ValueError(f"{experiment} returned {type(federation).__name__}, not a Federation")
    return federation


@lru_cache(maxsize=1)
def _own_federation(experiment: str, arguments: str) -> Federation:
    """One for all messages to a process; under its own name, by which Ray pickles it."""
    return make_federation(experiment, arguments)
