"""Secure aggregation on Flower: the server learns the sum of the updates, and no single one.

Flower's SecAgg+ (Bell et al. 2020): in every round the nodes agree on masks that cancel in the
sum. What a node masks is ``[state - the server's, loss, accuracy]``, so that losses are summed,
too. What the server still sees, and what the masks do not keep off, is in
:mod:`~metalearn_tut.federated.flower.guard`.

A weighted sum of whole numbers is what can be masked, so that the average is rounded. With
weights at most W, n nodes, and numbers within ± clip, the average of the differences is right to
``3 n clip / (T sum_i w_i / W)``, ``T = 2^min(30, 32 - bits of n)``: 2e-8 for three nodes of equal
weight and clip 8.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metalearn_tut.federated.aggregation import Reply, State, problem_of
from metalearn_tut.federated.federation import Federation
from metalearn_tut.federated.flower.clients import FlowerClients, delivered, question

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

log = logging.getLogger(__name__)
_MODULUS = 2**32  # Flower's masks are of 32 bits
_TOLD = 3  # loss, accuracy, and whether there is one
# When a stage has to be over, as a share of a round: keys, their shares, updates, unmasking
_SHARES = (1 / 8, 1 / 4, 7 / 8, 1.0)


class SecureClients(FlowerClients):
    """Clients whose updates the server sees only as a sum.

    Of each client that took part, :meth:`answers` has the average of all in place of its own
    state, which :func:`~metalearn_tut.federated.run_rounds` averages to itself. A client that
    fails after the masks were agreed on is left out of the sum, as long as two thirds of those
    asked, and two at least, are left; otherwise nobody has answered in that round.

    Parameters
    ----------
    grid, federation, timeout, wait
        As for :class:`~metalearn_tut.federated.flower.clients.FlowerClients`.
    clip : float, default 8
        Largest size of a number that can be masked. A node with a larger one does not answer.

    Raises
    ------
    ValueError
        If a limit is not positive, or rounds of the federation ask one node alone.
    """

    def __init__(
        self, grid: Grid, federation: Federation, *, clip: float = 8.0, **limits: float
    ) -> None:
        super().__init__(grid, federation, **limits)
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        if len(federation.clients(0)) < 2:
            raise ValueError(
                "a sum hides nothing of a single node: secure=True needs two nodes in every "
                f"round, and fraction={federation.fraction:g} of {len(federation.nodes)} is one"
            )
        self.clip = float(clip)

    def answers(self, nodes: Mapping[int, int], state: State, number: int) -> dict[int, Any]:
        """The average in the name of every client that took part, and why others did not."""
        if len(nodes) < 2:
            return dict.fromkeys(nodes, "a sum hides nothing of a single node")
        weights = [self._weight(client) for client in nodes]
        told = {"round": number, "clip": self.clip, "most": max(weights)}
        grid = _Postman(self.grid, self.timeout)
        average, took_part = _averaged(grid, nodes, question(self.federation, state, told), told)
        failed = {c: grid.errors[node] for c, node in nodes.items() if node in grid.errors}
        if average is None:
            return dict.fromkeys(nodes, "too few nodes were left for a sum") | failed
        reply = _reply(average, state)
        there = {c for c, node in nodes.items() if node in took_part}
        return failed | {c: reply._replace(count=self.federation.nodes[c].size) for c in there}

    def _weight(self, client: int) -> float:
        return self.federation.weight(Reply({}, self.federation.nodes[client].size))


class _Postman:
    """A grid for Flower's workflow: one time limit for a round, and what went wrong, by node.

    Each stage has its share of the time, so that a node that is late in one does not take the
    next one's.
    """

    def __init__(self, grid: Grid, timeout: float) -> None:
        self.grid, self.timeout, self.start = grid, timeout, time.monotonic()
        self.shares = iter(_SHARES)
        self.errors: dict[int, str] = {}

    def send_and_receive(
        self, messages: Sequence[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """The replies that come in time."""
        end = self.start + next(self.shares) * self.timeout
        came = delivered(self.grid, dict(enumerate(messages)), max(end - time.monotonic(), 0.0))
        for key, message in enumerate(messages):
            node = message.metadata.dst_node_id
            if key not in came:
                self.errors[node] = "no answer in time"
            elif came[key].has_error():
                error = came[key].error
                self.errors[node] = f"error {error.code}: {error.reason}"
        return list(came.values())


def _averaged(
    grid: _Postman, nodes: Mapping[int, int], content: RecordDict, told: Mapping[str, Any]
) -> tuple[np.ndarray | None, set[int]]:
    """The weighted average of what the nodes masked, and which nodes took part.

    Flower's stages one by one: a node that fails before it has shared its keys would be waited
    for in the last stage, and spoil the round.
    """
    from flwr.common import parameters_to_ndarrays
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

    found: list[Any] = []
    flow, context = _workflow(len(nodes), told), _context(nodes, told["round"], found)
    state = WorkflowState()
    if flow.setup_stage(grid, context, state) and flow.share_keys_stage(grid, context, state):
        here = state.active_node_ids
        state.sampled_node_ids = here
        state.nid_to_neighbours = {n: state.nid_to_neighbours[n] & here for n in here}
        state.nid_to_fitins = {n: type(content)(dict(content)) for n in here}
        if flow.collect_masked_vectors_stage(grid, context, state):
            flow.unmask_stage(grid, context, state)
    if not found:
        return None, set()
    return parameters_to_ndarrays(found[0][1].parameters)[0], {proxy.node_id for proxy, _ in found}


def _workflow(n: int, told: Mapping[str, Any]) -> Any:
    from flwr.server.workflow import SecAggPlusWorkflow

    return SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=2 / 3,
        max_weight=told["most"],
        clipping_range=told["clip"],
        quantization_range=2 ** min(30, 32 - n.bit_length()),
        modulus_range=_MODULUS,
    )


def _context(nodes: Mapping[int, int], number: int, found: list[Any]) -> Any:
    """What the workflow, made for strategies of Flower's old kind, asks one for."""
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict
    from flwr.compat.common.typing import FitIns, Parameters
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

    nothing = FitIns(Parameters([], ""), {})
    strategy = SimpleNamespace(
        configure_fit=lambda *_: [(SimpleNamespace(node_id=n), nothing) for n in nodes.values()],
        aggregate_fit=lambda number, results, failures: found.extend(results) or (None, {}),
    )
    round_of = {MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: number})}
    manager = SimpleNamespace(num_available=lambda: len(nodes))
    state = RecordDict({**round_of, MAIN_PARAMS_RECORD: ArrayRecord({})})
    return SimpleNamespace(state=state, strategy=strategy, client_manager=manager)


def _reply(average: np.ndarray, state: State) -> Reply:
    """An average of differences as a state; the server's integers and masks stay."""
    names = [n for n, t in state.items() if t.is_floating_point()]
    parts = torch.from_numpy(average[:-_TOLD]).split([state[n].numel() for n in names])
    moved = {
        n: (state[n].cpu().double() + part.view(state[n].shape)).to(state[n])
        for n, part in zip(names, parts, strict=True)
    }
    loss, accuracy, has_accuracy = average[-_TOLD:].tolist()
    return Reply({**state, **moved}, 1, loss, accuracy if has_accuracy > 0.5 else None)


def to_be_masked(
    reply: Reply, state: State, weight: float, told: Mapping[str, int | float]
) -> RecordDict:
    """What a client hands to Flower's ``secaggplus_mod``, which masks it.

    Parameters
    ----------
    reply : Reply
        The client's.
    state : dict
        The server's.
    weight : float
        Of this client in the average.
    told : mapping
        What the server said: ``clip``, and ``most``, the largest weight of the round.

    Raises
    ------
    ValueError
        If the reply could not be averaged, or not masked: the server cannot look for itself.
    """
    from flwr.common import FitRes, Status, ndarrays_to_parameters
    from flwr.compat.common.recorddict_compat import fitres_to_recorddict
    from flwr.compat.common.typing import Code

    if wrong := problem_of(reply, state):
        raise ValueError(wrong)
    if weight > told["most"]:
        raise ValueError("it has more images than the server knows of")
    floats = [n for n, t in state.items() if t.is_floating_point()]
    parts: list[Tensor] = [(reply.state[n].double() - state[n].double()).flatten() for n in floats]
    known = reply.accuracy is not None
    said = [float(reply.loss), float(reply.accuracy) if known else 0.0, float(known)]
    vector = torch.cat([*(part.cpu() for part in parts), torch.tensor(said, dtype=torch.float64)])
    if vector.abs().max() > told["clip"]:
        raise ValueError(f"a number of its update is beyond ±{told['clip']:g}: raise clip")
    parameters = ndarrays_to_parameters([vector.numpy()])
    result = FitRes(Status(Code.OK, ""), parameters, int(weight), {})
    return fitres_to_recorddict(result, keep_input=True)
