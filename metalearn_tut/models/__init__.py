"""Floor 1: the networks, plain ``nn.Module``s usable without anything else of the package."""

from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.models.norms import NORMS, TaskBatchNorm2d

__all__ = ["NORMS", "Conv4", "TaskBatchNorm2d"]
