"""Floor 6: files that answer without PyTorch."""

from metalearn_tut.deployment.network_export import Exported, export_network

__all__ = ["Exported", "export_network"]
