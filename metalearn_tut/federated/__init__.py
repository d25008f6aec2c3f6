"""Floor 3: nodes with different data learn together where each of them should start."""

from metalearn_tut.federated.gating import UPDATES, MetaGater
from metalearn_tut.federated.nodes import Across, Node, NodeSampler
from metalearn_tut.federated.partition import Partition, by_classes, by_dirichlet
from metalearn_tut.federated.stages import STAGES

__all__ = [
    "STAGES",
    "UPDATES",
    "Across",
    "MetaGater",
    "Node",
    "NodeSampler",
    "Partition",
    "by_classes",
    "by_dirichlet",
]
