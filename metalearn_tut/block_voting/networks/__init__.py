"""The networks that block voting needs: residual networks with a gate at each block."""

from metalearn_tut.block_voting.networks.block_gate import BlockGate
from metalearn_tut.block_voting.networks.block_gated import BlockGated
from metalearn_tut.block_voting.networks.block_gated_resnet12 import BlockGatedResNet12

__all__ = ["BlockGate", "BlockGated", "BlockGatedResNet12"]
