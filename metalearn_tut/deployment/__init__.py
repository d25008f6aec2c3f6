"""Floor 6: files that answer without PyTorch."""

from metalearn_tut.deployment.network import Exported, export_onnx

__all__ = ["Exported", "export_onnx"]
