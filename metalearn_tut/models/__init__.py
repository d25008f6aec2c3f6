"""Floor 1: the networks, plain PyTorch modules usable without anything else of the package."""

from metalearn_tut.models.bound import with_tensors
from metalearn_tut.models.channel_gated import (
    ChannelGated,
    ChannelGatedConv4,
    ChannelGatedResNet12,
)
from metalearn_tut.models.channel_gates import ChannelGate, channel_mask, open_share
from metalearn_tut.models.channel_skipping import skip, skip_each
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.conv4 import Conv4
from metalearn_tut.models.deploy import deploy
from metalearn_tut.models.gated_resnet import GatedResNet
from metalearn_tut.models.gated_resnet12 import GatedResNet12
from metalearn_tut.models.gates import BlockGate, gumbel_mask, hard_mask
from metalearn_tut.models.mode import evaluating
from metalearn_tut.models.norms import NORMS, TaskBatchNorm2d
from metalearn_tut.models.resnet12 import ResNet12

__all__ = [
    "NORMS",
    "BlockGate",
    "ChannelGate",
    "ChannelGated",
    "ChannelGatedConv4",
    "ChannelGatedResNet12",
    "CifarResNet",
    "Conv4",
    "GatedResNet",
    "GatedResNet12",
    "ResNet12",
    "TaskBatchNorm2d",
    "channel_mask",
    "deploy",
    "evaluating",
    "gumbel_mask",
    "hard_mask",
    "open_share",
    "skip",
    "skip_each",
    "with_tensors",
]
