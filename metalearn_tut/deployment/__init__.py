"""Floor 6: files that answer without PyTorch, and files that learn without it."""

from metalearn_tut.deployment.learned import write_learned
from metalearn_tut.deployment.learner_export import ExportedLearner, export_learner
from metalearn_tut.deployment.network_export import Exported, export_network

__all__ = ["Exported", "ExportedLearner", "export_learner", "export_network", "write_learned"]
