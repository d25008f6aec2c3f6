"""Floor 6: nodes with different data learn together where each of them should start."""

from metalearn_tut.federated.aggregation import (
    Reply,
    bytes_of,
    fed_avg,
    load_state,
    per_fed_avg,
    problem_of,
    state_of,
    weighted_average,
)
from metalearn_tut.federated.federation import Federation
from metalearn_tut.federated.nodes import Across, Node, NodeSampler
from metalearn_tut.federated.outcome import FederationFailed
from metalearn_tut.federated.partition import Partition, by_classes, by_dirichlet
from metalearn_tut.federated.rounds import in_process, run_rounds

__all__ = [
    "Across",
    "Federation",
    "FederationFailed",
    "Node",
    "NodeSampler",
    "Partition",
    "Reply",
    "by_classes",
    "by_dirichlet",
    "bytes_of",
    "fed_avg",
    "in_process",
    "load_state",
    "per_fed_avg",
    "problem_of",
    "run_rounds",
    "state_of",
    "weighted_average",
]
