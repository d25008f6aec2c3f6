"""Floor 2: the networks, plain PyTorch modules usable without anything else of the package."""

from metalearn_tut.models.bound import with_tensors
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.models.deploy import deploy
from metalearn_tut.models.mode import evaluating
from metalearn_tut.models.norms import NORMS, TaskBatchNorm2d
from metalearn_tut.models.random_masks import gumbel_mask, hard_mask
from metalearn_tut.models.resnet12 import ResNet12
from metalearn_tut.models.support_norm import support_norm

__all__ = [
    "NORMS",
    "CifarResNet",
    "Conv4",
    "ResNet12",
    "TaskBatchNorm2d",
    "deploy",
    "evaluating",
    "gumbel_mask",
    "hard_mask",
    "support_norm",
    "with_tensors",
]
