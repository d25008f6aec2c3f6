"""Clients on Flower's nodes: who they are, what is sent to them, and how long is waited."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from metalearn_tut.federated.aggregation import Reply, State
from metalearn_tut.federated.federation import Federation

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.serverapp import Grid

log = logging.getLogger(__name__)
_POLL = 0.2  # seconds between two looks at what has come


class FlowerClients:
    """How :func:`~metalearn_tut.federated.run_rounds` reaches clients through Flower.

    All of a round are asked at once. A client whose node is not connected, or does not answer
    in time, is left out of the round.

    Parameters
    ----------
    grid : Grid
        Of the running ServerApp.
    federation : Federation
    timeout : float, default 600
        Seconds that a round may take.
    wait : float, default 60
        Seconds to wait, before the first round, until every client has a node.

    Raises
    ------
    ValueError
        If a time limit is not positive.
    """

    def __init__(
        self, grid: Grid, federation: Federation, *, timeout: float = 600, wait: float = 60
    ) -> None:
        for name, value in (("timeout", timeout), ("wait", wait)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.grid, self.federation = grid, federation
        self.timeout, self.wait = timeout, wait
        self.known: dict[int, int] = {}  # node id -> client
        self.strangers: set[int] = set()  # nodes that could not say which client they are
        self.begun = False

    def connected(self) -> dict[int, int]:
        """Client -> the id of a node that is connected now and stands for it."""
        from flwr.app import RecordDict

        here = list(self.grid.get_node_ids())
        new = [node for node in here if node not in self.known and node not in self.strangers]
        contents, limit = {node: (RecordDict(), node) for node in new}, min(self.wait, self.timeout)
        for node, reply in exchange(self.grid, contents, "query", limit).items():
            if reply.has_error():
                self.strangers.add(node)
                log.warning("node %d is not asked: %s", node, reply.error.reason)
            else:
                self.known[node] = int(reply.content["who"]["client"])
        return {self.known[node]: node for node in here if node in self.known}

    def __call__(self, chosen: Sequence[int], state: State, number: int) -> dict[int, Any]:
        """What came back of each client; RuntimeError if no node has ever come."""
        nodes, deadline = self.connected(), time.monotonic() + self.wait
        everybody = 0 if self.begun else len(self.federation.nodes)
        while len(nodes) < everybody and time.monotonic() <= deadline:
            time.sleep(_POLL)
            nodes = self.connected()
        if not self.known:
            raise RuntimeError(f"no node has connected within {self.wait:g} s")
        self.begun = True
        late = f"no answer within {self.timeout:g} s"
        found: dict[int, Any] = {c: late if c in nodes else "not connected" for c in chosen}
        return found | self.answers({c: nodes[c] for c in chosen if c in nodes}, state, number)

    def answers(self, nodes: Mapping[int, int], state: State, number: int) -> dict[int, Any]:
        """What came back of the clients (client -> node id) that can be asked, if anything did."""
        content = question(self.federation, state, {"round": number})
        sent = {client: (content, node) for client, node in nodes.items()}
        came = exchange(self.grid, sent, "train", self.timeout)
        return {client: reply_of(message, self.federation) for client, message in came.items()}


def question(federation: Federation, state: State, told: Mapping[str, int | float]) -> RecordDict:
    """What a client is sent: where to start, and by what plan."""
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    arrays = ArrayRecord(torch_state_dict=on_cpu(state))
    record = ConfigRecord({**told, "plan": json.dumps(federation.plan())})
    return RecordDict({"state": arrays, "told": record})


def check_plan(federation: Federation, content: RecordDict) -> None:
    """Refuse to train by another plan than the server's.

    Raises
    ------
    ValueError
        Naming what differs.
    """
    theirs, own = json.loads(content["told"]["plan"]), json.loads(json.dumps(federation.plan()))
    for name in sorted(theirs.keys() | own.keys()):
        if theirs.get(name) != own.get(name):
            raise ValueError(
                f"this node has another plan than the server: {name} is {own.get(name)!r} here "
                f"and {theirs.get(name)!r} there"
            )


def exchange(
    grid: Grid, contents: Mapping[int, tuple[RecordDict, int]], kind: str, timeout: float
) -> dict[int, Message]:
    """Send each content to its node, and wait for the replies as long as is allowed."""
    from flwr.app import Message

    ttl = {"ttl": float(timeout)}
    messages = {key: Message(c, node, kind, **ttl) for key, (c, node) in contents.items()}
    return delivered(grid, messages, timeout)


def delivered(grid: Grid, messages: Mapping[int, Message], timeout: float) -> dict[int, Message]:
    """The replies to messages, by their keys, as far as they come in time.

    Flower's own ``send_and_receive`` looks for replies every three seconds only.
    """
    if not messages:
        return {}
    deadline = time.monotonic() + timeout
    sent = zip(grid.push_messages(list(messages.values())), messages, strict=False)
    waiting = {message: key for message, key in sent if message}
    found: dict[int, Message] = {}
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            key = waiting.pop(reply.metadata.reply_to_message_id, None)
            if key is not None:
                found[key] = reply
        if time.monotonic() >= deadline:  # looked at last: what has come by then counts
            break
        if waiting:
            time.sleep(_POLL)
    return found


def reply_of(message: Message, federation: Federation) -> Any:
    """What a node sent back, as the server reads it; or why it cannot."""
    if message.has_error():
        return f"error {message.error.code}: {message.error.reason}"
    try:
        told = message.content["told"]
        state = state_in(message.content, federation)
        return Reply(state, told["count"], told["loss"], told.get("accuracy"))
    except Exception as error:  # a message can hold anything
        return error


def client_of(context: Context, n: int | None = None) -> int:
    """Which client a node stands for, of n."""
    number = context.node_config.get("partition-id")
    if not isinstance(number, int) or number < 0 or (n is not None and number >= n):
        allowed = "an integer >= 0" if n is None else f"in 0..{n - 1}, the clients there are"
        raise ValueError(f"partition-id of a node must be {allowed}, got {number!r}")
    return number


def on_cpu(state: State) -> dict[str, Tensor]:
    """The state as it travels."""
    return {name: tensor.cpu() for name, tensor in state.items()}


def state_in(content: RecordDict, federation: Federation) -> dict[str, Tensor]:
    """The state in a message, on the learner's device."""
    like = next(iter(federation.learner.meta_parameters().values()))
    arrays = content["state"].to_torch_state_dict()
    return {name: tensor.to(like.device) for name, tensor in arrays.items()}
