"""Floor 1: the networks, plain PyTorch modules usable without anything else of the package."""

from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.models.deploy import deploy
from metalearn_tut.models.norms import NORMS, TaskBatchNorm2d
from metalearn_tut.models.resnet12 import ResNet12

__all__ = ["NORMS", "CifarResNet", "Conv4", "ResNet12", "TaskBatchNorm2d", "deploy"]
