"""Floor 3: nodes with different data learn together where each of them should start."""

from metalearn_tut.federated.gating import UPDATES, MetaGater
from metalearn_tut.federated.stages import STAGES

__all__ = ["STAGES", "UPDATES", "MetaGater"]
