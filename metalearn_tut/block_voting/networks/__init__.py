"""The networks that block voting needs: residual networks with a gate at each block."""

from metalearn_tut.block_voting.networks.gated_resnet import GatedResNet
from metalearn_tut.block_voting.networks.gated_resnet12 import GatedResNet12
from metalearn_tut.block_voting.networks.gates import BlockGate

__all__ = ["BlockGate", "GatedResNet", "GatedResNet12"]
