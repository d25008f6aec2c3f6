"""Floor 5: each image opens the channels that it needs, and a task learns which (MetaGater).

Lin et al., *MetaGater: Fast Learning of Conditional Channel Gated Networks via Federated
Meta-Learning*, 2020 (arXiv:2011.12511). We know the paper's abstract and a summary of its
equations, not its full text; what is our reconstruction is called so.
"""

from metalearn_tut.gating.channel_gate import ChannelGate, channel_mask, open_share
from metalearn_tut.gating.counts import active_macs
from metalearn_tut.gating.evaluation import active_share, is_gated
from metalearn_tut.gating.learner import UPDATES, MetaGater
from metalearn_tut.gating.networks import ChannelGated, ChannelGatedConv4, ChannelGatedResNet12
from metalearn_tut.gating.skipping import skip, skip_each
from metalearn_tut.gating.stages import STAGES

__all__ = [
    "STAGES",
    "UPDATES",
    "ChannelGate",
    "ChannelGated",
    "ChannelGatedConv4",
    "ChannelGatedResNet12",
    "MetaGater",
    "active_macs",
    "active_share",
    "channel_mask",
    "is_gated",
    "open_share",
    "skip",
    "skip_each",
]
